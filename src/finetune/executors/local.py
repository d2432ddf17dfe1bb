"""Runs as processes of this machine: each in a session of its own, at most one on each slot."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, ClassVar

from finetune.config.command_line import Arguments
from finetune.errors import Interrupted, RunError
from finetune.executors.base import RunOutcome, RunRequest
from finetune.executors.resources import Slot
from finetune.ranks import describe_exit
from finetune.runner.spawn import RUN_SCRIPT
from finetune.runs.directory import RunDirectory, State
from finetune.runs.failure_causes import Cause
from finetune.runs.lock import HeldLock

_ERROR = re.compile(r"(?:\[rank\d+\]: )?([A-Za-z_][\w.]*(?:Error|Exception)\b: .*)")
_CANCELLED = "Cancelled before it started training."
_MAX_BYTES = 1 << 24  # of a process's standard error that are read at once


@dataclass
class _Process:
    """A run's process: the slot it occupies, its standard error, and whether and why it was cancelled."""

    request: RunRequest
    slot: Slot
    child: subprocess.Popen[bytes]
    errors: IO[bytes]
    printed: int = 0  # bytes of its standard error that were printed
    is_cancelled: bool = False
    cancel_reason: str | None = None

    def read_errors(self, start: int = 0) -> bytes:
        """Return its standard error from byte `start` on."""
        return os.pread(self.errors.fileno(), _MAX_BYTES, start)


@dataclass
class LocalExecutor:
    """Starts processes, prints their standard error, and stops them; never more than there are slots.

    With `prints=False` neither their output nor their standard error is printed.
    """

    slots: Sequence[Slot]
    arguments: Arguments
    prints: bool = True
    _processes: list[_Process] = field(default_factory=list)

    is_detached: ClassVar[bool] = False
    poll_seconds: ClassVar[float] = 0.1

    def has_room(self) -> bool:
        """Return whether a slot is free."""
        return len(self._processes) < len(self.slots)

    def submit(self, request: RunRequest, lock: HeldLock | None = None) -> None:
        """Start a run on a free slot; its process inherits `lock`, the lock of the run, if this process holds it."""
        slot = self._free_slot()
        environment = slot.environment(request.processes)
        handles: list[int] = []
        if lock is not None:
            environment |= lock.environment()
            handles.append(lock.handle)
            lock.clear_holder()  # cancelling the run from now on must not stop this process
        arguments = replace(self.arguments, overrides=list(request.overrides)).in_folder(request.path)
        # A file, not a pipe: a run must not end because this process was killed.
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the run has ended
        child = subprocess.Popen(
            [sys.executable, str(RUN_SCRIPT), *arguments.where(), *arguments.overrides],
            env=environment,
            pass_fds=handles,
            stdin=None if self.prints else subprocess.DEVNULL,
            # The progress of several runs at once is unreadable; each has a run.log.
            stdout=None if self._prints_live() else subprocess.DEVNULL,
            stderr=errors,
            # A session of its own: Ctrl-C must reach it once, from here, and leave it time to save.
            start_new_session=True,
        )
        if lock is not None:
            lock.write_holder(child.pid)
        slot.pin(child.pid)
        self._processes.append(_Process(request, slot, child, errors))

    def flush(self) -> None:
        """Do nothing: `submit` starts each run at once."""

    def poll(self) -> list[RunOutcome]:
        """Print new standard error of the runs, and return the runs that have ended."""
        for process in self._processes:
            self._print_errors(process)
        return self._remove_ended()

    def running(self) -> list[Path]:
        """Return the directories of the runs that have not been cancelled."""
        return [process.request.path for process in self._processes if not process.is_cancelled]

    def cancel(self, path: Path, reason: str | None = None) -> None:
        """Send SIGTERM to a run, which saves and stops; `reason` is written to its status when it has."""
        for process in self._processes:
            if process.request.path == path:
                process.is_cancelled = True
                process.cancel_reason = reason
                process.child.send_signal(signal.SIGTERM)

    def stop(self, number: int) -> list[RunOutcome]:
        """Forward a signal to all runs and wait until they have saved.

        A second Ctrl-C meanwhile forwards it again, which ends them without saving; a third one kills them.
        """
        for each_number in (number, number, signal.SIGKILL):
            with contextlib.suppress(KeyboardInterrupt):
                for process in self._processes:
                    process.child.send_signal(each_number)
                for process in self._processes:
                    process.child.wait()
                break
        return self._remove_ended()

    def interrupted(self, finished: int, command: str) -> Interrupted:
        """Return that the sweep was stopped, and all its runs with it."""
        trials = "trial" if finished == 1 else "trials"
        what = f"The sweep was stopped; {finished} {trials} of it finished."
        return Interrupted(what, f"The same command resumes it:\n    {command}")

    def _free_slot(self) -> Slot:
        occupied = [id(process.slot) for process in self._processes]
        return next(slot for slot in self.slots if id(slot) not in occupied)

    def _prints_live(self) -> bool:
        return self.prints and len(self.slots) == 1

    def _remove_ended(self) -> list[RunOutcome]:
        ended = [process for process in self._processes if process.child.poll() is not None]
        outcomes = []
        for process in ended:
            if process.child.returncode:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.child.pid, signal.SIGKILL)  # other processes of the run that are still alive
            self._print_errors(process)
            try:
                outcome = _outcome(process)
            except RunError as error:  # the status cannot be read; the other runs are not affected
                outcome = RunOutcome(process.request.path, "failed", error.what)
            outcomes.append(outcome)
        # At the end, so that an exception above loses no run: the next call returns them.
        for process in ended:
            self._processes.remove(process)
            process.errors.close()
        return outcomes

    def _print_errors(self, process: _Process) -> None:
        if not self.prints or process.is_cancelled:
            return
        if len(self.slots) > 1 and process.child.returncode is None:
            return  # of several runs at once: in one piece, at the end
        text = process.read_errors(process.printed)
        if text:
            process.printed += len(text)
            sys.stderr.write(text.decode(errors="replace"))
            sys.stderr.flush()


def _outcome(process: _Process) -> RunOutcome:
    """Return how a run ended: from its status if the run could write one, else from its exit code and error output."""
    path, exit_code = process.request.path, process.child.returncode
    run = RunDirectory(path)
    status: dict[str, Any] = {}
    if path.is_dir():
        status = run.read_status()
    # Another process may have worked on the run, so that this one could not, and have finished it meanwhile.
    is_finished_by_another = status.get("state") == "finished" and status.get("pid") != process.child.pid
    state, reason = str(status.get("state", "")), str(status.get("reason", ""))
    if exit_code == 0 and state == "finished":
        return RunOutcome(path, state, "")
    if state == "interrupted" and process.cancel_reason is not None:
        _write_status(run, status, "interrupted", process.cancel_reason, "stopped")
        return RunOutcome(path, state, process.cancel_reason)
    if state == "interrupted" and exit_code > 0:
        return RunOutcome(path, state, reason)
    if state == "failed" and reason:
        return RunOutcome(path, state, reason)
    is_cancelled = process.is_cancelled or state == "pending"  # `finetune runs cancel` does it from another process
    if is_cancelled and exit_code == -signal.SIGTERM and process.cancel_reason is None:
        # It had not installed its signal handlers yet.
        _write_status(run, status, "interrupted", _CANCELLED, "stopped")
        return RunOutcome(path, "interrupted", _CANCELLED)
    reason = _reason(process.read_errors().decode(errors="replace"), exit_code)
    if state and not is_finished_by_another:  # the process was killed before it could write it
        _write_status(run, status, "failed", reason)
    return RunOutcome(path, "failed", reason)


def _write_status(
    run: RunDirectory, before: dict[str, Any], state: State, reason: str, cause: Cause | None = None
) -> None:
    """Replace the status `before` of a run, unless another process works on the run or has changed it since."""
    with contextlib.suppress(RunError), run.lock():  # LockHeld, or a full disk, which must not end the other runs
        if run.read_status() == before:
            run.write_status(state, reason, cause=cause)


def _reason(errors: str, exit_code: int) -> str:
    """Return why a process ended that could not write it: an error, a signal, or its message.

    Of chained exceptions in a traceback it is the first one, the cause.
    """
    for line in errors.splitlines():
        match = _ERROR.fullmatch(line)
        if match is not None:
            return match[1]
    if exit_code < 0:
        return describe_exit(exit_code).removeprefix("was ")
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return " ".join(lines[:4])[:500] or f"it ended with exit code {exit_code}"
