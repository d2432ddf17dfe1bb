"""The processes of a sweep: each point a fresh one, in a session of its own, at most one on each slot."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from finetune.config.command_line import Arguments
from finetune.config.quoting import quoted
from finetune.errors import Interrupted, RunError
from finetune.executors.resources import Slot
from finetune.ranks import how_it_ended
from finetune.runner.spawn import RUN_SCRIPT
from finetune.runs.directory import RunDirectory, State
from finetune.sweep.trials import PRUNED, Trial

_SECONDS_BETWEEN_LOOKS = 0.1
_ERROR = re.compile(r"(?:\[rank\d+\]: )?([A-Za-z_][\w.]*(?:Error|Exception)\b: .*)")


@dataclass
class _Going:
    point: Trial
    slot: Slot
    child: subprocess.Popen[bytes]
    errors: IO[bytes]
    told: int = 0  # bytes of its errors that were passed on
    is_pruned: bool = False


@dataclass(frozen=True)
class TrialOutcome:
    """A point whose process ended, and how: as its status says, or as what the process left behind shows."""

    point: Trial
    state: str
    reason: str


@dataclass
class LocalExecutor:
    """Starts processes, passes on what they complain of, and stops them; never more than there are slots."""

    slots: Sequence[Slot]
    arguments: Arguments
    _going: list[_Going] = field(default_factory=list)

    def has_room(self) -> bool:
        """Return whether another point can be started."""
        return len(self._going) < len(self.slots)

    def is_idle(self) -> bool:
        """Return whether nothing is running."""
        return not self._going

    def points(self) -> list[Trial]:
        """Return the points that are running, but for those that are being stopped."""
        return [each.point for each in self._going if not each.is_pruned]

    def start(self, point: Trial) -> None:
        """Start a point on a free slot."""
        taken = [each.slot for each in self._going]
        slot = self.slots[0] if not taken else next(slot for slot in self.slots if not any(slot is t for t in taken))
        command = [sys.executable, str(RUN_SCRIPT), *self.arguments.where(), *point.overrides]
        command.append(f"hydra.run.dir={quoted(str(point.run))}")
        # A file, not a pipe: a point must not end because the sweep was killed.
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the point has ended
        child = subprocess.Popen(
            command,
            env=slot.environment(point.processes),
            # Progress of several at once cannot be read; run.log of each has it.
            stdout=None if len(self.slots) == 1 else subprocess.DEVNULL,
            stderr=errors,
            # A session of its own: Ctrl-C must reach it once, from here, and leave it time to save.
            start_new_session=True,
        )
        slot.keep(child.pid)
        self._going.append(_Going(point, slot, child, errors))

    def wait(self) -> list[TrialOutcome]:
        """Wait a moment, and return the points that have ended."""
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        for each in self._going:
            self._pass_on(each)
        return list(self._ended())

    def prune(self, point: Trial) -> None:
        """Ask a point to save and stop, because others are better."""
        for each in self._going:
            if each.point is point:
                each.is_pruned = True
                each.child.send_signal(signal.SIGTERM)

    def stop(self, number: int) -> list[TrialOutcome]:
        """Pass a signal on to all and wait for them to save; the second one stops them at once, the third kills."""
        for each_signal in (number, number, signal.SIGKILL):
            with contextlib.suppress(KeyboardInterrupt):
                for each in self._going:
                    each.child.send_signal(each_signal)
                for each in self._going:
                    each.child.wait()
                break
        return list(self._ended())

    def stopped(self, finished: int, again: str) -> Interrupted:
        """Return what is to be said when the sweep was stopped, and all its points with it."""
        what = f"The sweep was stopped; {finished} point{'s' if finished != 1 else ''} of it finished."
        return Interrupted(what, f"The same command goes on where it was:\n    {again}")

    def _ended(self) -> Iterator[TrialOutcome]:
        for each in [each for each in self._going if each.child.poll() is not None]:
            self._going.remove(each)
            if each.child.returncode:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(each.child.pid, signal.SIGKILL)  # what other processes of the point are still there
            self._pass_on(each)
            state, reason = _outcome(each)
            each.errors.close()
            yield TrialOutcome(each.point, state, reason)

    def _pass_on(self, each: _Going) -> None:
        text = os.pread(each.errors.fileno(), 1 << 24, each.told)
        # Of several at once, in one piece; of one that is stopped on purpose nothing.
        if text and not each.is_pruned and (len(self.slots) == 1 or each.child.returncode is not None):
            each.told += len(text)
            sys.stderr.write(text.decode(errors="replace"))
            sys.stderr.flush()


def _outcome(each: _Going) -> tuple[str, str]:
    """The state and the reason: of the status where the run could write one, which it then has."""
    run, exit_code = RunDirectory(each.point.run), each.child.returncode
    status = run.read_status() if each.point.run.is_dir() else {}
    state, reason = str(status.get("state", "")), str(status.get("reason", ""))
    if exit_code == 0 and state == "finished":
        return state, ""
    if state == "interrupted" and each.is_pruned:
        _write(run, "interrupted", PRUNED)
        return state, PRUNED
    if state == "interrupted" and exit_code > 0:
        return state, reason
    if state == "failed" and reason:
        return state, reason
    errors = os.pread(each.errors.fileno(), 1 << 24, 0).decode(errors="replace")
    reason = _reason(errors, exit_code)
    if state:  # a process that was killed could not write it down
        _write(run, "failed", reason)
    return "failed", reason


def _write(run: RunDirectory, state: State, reason: str) -> None:
    with contextlib.suppress(RunError):  # the others go on, whatever the disk says
        run.write_status(state, reason)


def _reason(errors: str, exit_code: int) -> str:
    """What a process that could not write it down left of its reason: a traceback, a signal, its answer."""
    found = next((match[1] for match in map(_ERROR.fullmatch, errors.splitlines()) if match), "")
    if found:
        return found
    if exit_code < 0:
        return how_it_ended(exit_code).removeprefix("was ")
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    return " ".join(said[:4])[:500] or f"it ended with exit code {exit_code}"
