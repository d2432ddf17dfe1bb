"""Finds a process of a run that does not take part in a collective operation in which the others wait.

Every process counts the operations that it has started. If its count stays the same for the time limit, and is not that
of all others, a process is missing. The libraries have time limits of their own, which come later: they know only that
they waited, and NCCL's ends the process before it could write why.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.runs.failure_causes import RemoteRankError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

_SECONDS_BETWEEN_REPORTS = 10.0
_ADVICE = "If it needs that long, increase collective_timeout (minutes). If not, it hangs where it is: find out why."


class StallDetector:
    """The operations of process `rank` of `world`, compared with those of the others through the store."""

    def __init__(self, store: Store, rank: int, world: int, timeout: timedelta) -> None:
        self._store, self._rank, self._world, self._timeout = store, rank, world, timeout.total_seconds()
        self._count, self._since = 0, time.monotonic()
        self._reported, self._next_report = "", 0.0

    def check(self) -> RemoteRankError | None:
        """Return the error of a process that is missing for longer than the time limit; to be called repeatedly."""
        from finetune.encoding.collectives import count_started

        now, count = time.monotonic(), count_started()
        if count != self._count:
            self._count, self._since = count, now
        if now >= self._next_report:
            self._next_report = now + min(_SECONDS_BETWEEN_REPORTS, self._timeout / 4)
            self._report()
        if now - self._since < self._timeout:
            return None
        return self._missing()

    def _report(self) -> None:
        report = f"{self._count} {_position()}"
        if report != self._reported:
            self._store.set(f"operations/{self._rank}", report)
            self._reported = report

    def _missing(self) -> RemoteRankError | None:
        keys = [f"operations/{rank}" for rank in range(self._world)]
        if not self._store.check(keys):
            return None
        reports = [report.decode().split(maxsplit=1) for report in self._store.multi_get(keys)]
        counts = [int(count) for count, _ in reports]
        behind = [rank for rank, count in enumerate(counts) if count < max(counts)]
        if not behind:
            return None  # all wait for the same, or compute
        waited = f"{self._timeout / 60:.3g} minutes"
        if self._timeout < 60:
            waited = f"{self._timeout:.3g} seconds"
        processes = f"process {behind[0]} has"
        if len(behind) > 1:
            processes = f"processes {', '.join(map(str, behind))} have"
        what = f"{processes} not joined the others in a collective operation for {waited}"
        what = f"{what}; process {behind[0]} was last at {reports[behind[0]][1]}."
        return RemoteRankError(what, _ADVICE, "timeout", rank=behind[0])


def _is_library(path: str) -> bool:
    installed = "site-packages" in path or "dist-packages" in path
    return installed or path.startswith((sysconfig.get_path("stdlib"), "<"))


def _position() -> str:
    """Return the line of code that the main thread is at: the innermost one that is not in a library."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "its end"
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno} ({frame.f_code.co_name})"
