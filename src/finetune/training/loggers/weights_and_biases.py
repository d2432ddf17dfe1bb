"""Weights & Biases: a process of its own talks to it, and can be lost without loss."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar, Literal

from finetune.config.types import NotEmptyText, Positive
from finetune.console import say
from finetune.errors import RunError
from finetune.runs.atomic import to_json
from finetune.runs.directory import State
from finetune.training.loggers.tracker import Row, Tracker

_SCRIPT = Path(__file__).with_name("wandb_process.py")


class WeightsAndBiases(Tracker):
    """Sends config and rows to Weights & Biases, or records them to be sent later; a resumed run has the same id.

    `mode` auto sends where a key is set up (`wandb login`) and records elsewhere, offline never sends. The service is
    waited for `init_seconds` at the start, before it is recorded instead, and `finish_seconds` at the end of the run.
    `directory` is given by the run.
    """

    title: ClassVar[str] = "W&B"
    needs: ClassVar[str] = "wandb"

    def __init__(
        self,
        project: NotEmptyText = "finetune",
        entity: NotEmptyText | None = None,
        mode: Literal["auto", "offline"] = "auto",
        init_seconds: Positive = 60.0,
        finish_seconds: Positive = 60.0,
        directory: str | None = None,
    ) -> None:
        super().__init__(finish_seconds, directory)
        self._settings = {"project": project, "entity": entity, "mode": mode, "init_seconds": init_seconds}
        # The process gives up a little earlier than it is given up, so that it can say why.
        self._settings["finish_seconds"] = 0.8 * finish_seconds
        self._process: subprocess.Popen[str] | None = None

    def begin(self, config: dict[str, Any], step: int) -> None:
        """Start the process, and tell it what the run is."""
        run_id = self.remembered() or secrets.token_hex(4)
        self.remember(run_id)
        self._process = subprocess.Popen(
            # -P: what lies beside the script must not be taken for what it imports.
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,  # Ctrl-C is for the run, which then ends it
        )
        threading.Thread(target=self._repeat, args=(self._process,), daemon=True).start()
        run = {"id": run_id, "name": self.run.name, "group": self.run.path.absolute().parent.name, "config": config}
        self._tell(self._settings | run | {"directory": str(self.run.path.absolute()), "pid": os.getpid()})

    def write(self, rows: list[Row]) -> None:
        """Hand some rows to the process."""
        for row, step in rows:
            self._tell({"step": step, "row": row})

    def end(self, state: State) -> None:
        """Tell the process how the run ended, and wait for it."""
        assert self._process is not None
        self._tell({"state": state})
        if self._process.wait():
            raise RunError(_ended(self._process.returncode))

    def close(self, state: State) -> None:
        """End the run there; a process that does not end in time is ended."""
        super().close(state)
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(to_json(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RunError(_ended(self._process.wait())) from error

    def _repeat(self, process: subprocess.Popen[str]) -> None:
        """Say what the process says."""
        for line in process.stdout or ():
            say(f"{self.title}: {line.rstrip()}")


def _ended(code: int) -> str:
    return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
