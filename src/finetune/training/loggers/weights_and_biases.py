"""Weights & Biases: a separate process sends to it, so that its failure cannot affect the run."""

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
    """Sends config and metrics to Weights & Biases, or records them to be sent later; a resumed run has the same id.

    `mode=auto` sends if a key is set up (`wandb login`) and records otherwise; `offline` always records. It waits
    `init_seconds` for the service before it records instead, and `finish_seconds` at the end of the run. `directory` is
    provided by the run.
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
        # The process stops waiting a little earlier than the run, so that it can print the reason.
        self._settings["finish_seconds"] = 0.8 * finish_seconds
        self._process: subprocess.Popen[str] | None = None

    def begin(self, config: dict[str, Any], step: int) -> None:
        """Start the process, and send it the settings and the config."""
        run_id = self.stored_id() or secrets.token_hex(4)
        self.store_id(run_id)
        self._process = subprocess.Popen(
            # -P: the script must not import the modules next to it by accident.
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,  # Ctrl-C is for the run, which then ends this process
        )
        threading.Thread(target=self._print_output, args=(self._process,), daemon=True).start()
        path = self.run.path.absolute()
        self._send(
            {
                **self._settings,
                "id": run_id,
                "name": self.run.name,
                "group": path.parent.name,
                "config": config,
                "directory": str(path),
                "pid": os.getpid(),
            }
        )

    def write(self, rows: list[Row]) -> None:
        """Send rows to the process."""
        for row, step in rows:
            self._send({"step": step, "row": row})

    def end(self, state: State) -> None:
        """Send the final state to the process, and wait for its end."""
        assert self._process is not None
        self._send({"state": state})
        if self._process.wait():
            raise RunError(_exit_reason(self._process.returncode))

    def close(self, state: State) -> None:
        """Close the run of the tracker, and kill the process if it does not end in time."""
        super().close(state)
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(to_json(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RunError(_exit_reason(self._process.wait())) from error

    def _print_output(self, process: subprocess.Popen[str]) -> None:
        """Print the messages of the process."""
        for line in process.stdout or ():
            say(f"{self.title}: {line.rstrip()}")


def _exit_reason(code: int) -> str:
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process exited with {code}"
