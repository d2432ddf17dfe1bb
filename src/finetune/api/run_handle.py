"""A run that was started from a program: its status, its log, waiting for it and cancelling it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from finetune.executors.base import Executor, RunOutcome

_ENDED = ("finished", "failed", "interrupted")
_MAX_LOG_BYTES = 1 << 20  # that are read for the last lines


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    `state` is pending, validating, running, finished, failed or interrupted; a job of a cluster may also be requeued.
    `reason` is a sentence, empty if there is nothing to explain. `step` is the last optimizer step that was reported.
    """

    state: str
    reason: str = ""
    step: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the run has finished, failed or been interrupted."""
        return self.state in _ENDED


class RunHandle:
    """A started run. All methods may be called from any thread."""

    def __init__(self, path: Path, executor: Executor) -> None:
        self._path = path
        self._executor = executor
        self._outcome: RunOutcome | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The run directory, an absolute path."""
        return self._path

    def __repr__(self) -> str:
        return f"RunHandle({str(self._path)!r})"

    def status(self) -> RunStatus:
        """Return the present status."""
        from finetune.runs.record import DAMAGED, DEAD, read_run

        with self._lock:
            if self._outcome is None:
                for outcome in self._executor.poll():
                    self._outcome = outcome
        record = read_run(self._path)
        if self._outcome is not None:
            # A job that ended without writing so has failed.
            state = self._outcome.state if self._outcome.state in _ENDED else "failed"
            return RunStatus(state, self._outcome.reason, record.step)
        if record.state in (DEAD, DAMAGED):
            # Its process has just released the lock of the run, and is about to end or has ended since `poll`.
            return RunStatus(_last_state_before_end(record.status), "", record.step)
        if record.state in _ENDED:
            # It has written its end and still exists: only the executor decides that it has ended.
            return RunStatus("running", "", record.step)
        return RunStatus(record.state, record.reason, record.step)

    def wait(self, timeout: float | None = None) -> RunStatus:
        """Wait until the run has ended, and return its status.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self.status()
            if status.has_ended:
                return status
            seconds = self._executor.poll_seconds
            if deadline is not None:
                seconds = min(seconds, deadline - time.monotonic())
                if seconds <= 0:
                    raise TimeoutError(f"{self._path} has not ended after {timeout} seconds: it is {status.state}.")
            time.sleep(seconds)

    def cancel(self) -> None:
        """Ask the run to save and stop; does nothing if it has ended. `wait` returns when it has stopped.

        Raises:
            FinetuneError: SLURM refuses to cancel its job or does not answer; the job continues.
        """
        with self._lock:
            if self._outcome is None:
                self._executor.cancel(self._path)

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the run's log; empty as long as there is none."""
        from finetune.runs.directory import RunDirectory

        try:
            with RunDirectory(self._path).log_path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _MAX_LOG_BYTES))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _last_state_before_end(status: dict[str, object]) -> str:
    state = str(status.get("state", "pending"))
    return "running" if state in _ENDED else state
