"""Waiting for the other processes of a run: a notice says for which and where, and after a time limit it fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta

from finetune.console import alert
from finetune.errors import RunError
from finetune.ranks import RankInfo

MAX_WAIT = timedelta(minutes=30)  # as long as torch waits for a process group
POLL_SECONDS = 0.2
_SECONDS_TO_FIRST_NOTICE, _SECONDS_BETWEEN_NOTICES = 5.0, 60.0


class WaitNotice:
    """Prints now and then what a process waits for."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._next: float | None = None

    def tick(self) -> None:
        """Print it if it is time; the waiting begins with the first call, not with the import of torch before it."""
        if self._next is None:
            self._next = time.monotonic() + _SECONDS_TO_FIRST_NOTICE
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN_NOTICES
            alert(self._text())


def wait_for_all(missing: Callable[[], list[int]], here: RankInfo, timeout: timedelta) -> None:
    """Wait until `missing`, which returns the ranks of the processes that have not joined, returns none.

    The loop is in Python: inside torch's C++ code signals are not handled.

    Raises:
        RunError: `timeout` is over.
    """
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    processes = f"of the {here.world} processes of this run. {here.advice_if_alone}"
    notice = WaitNotice(lambda: f"Waiting at {where} for {_named(missing())} {processes}")
    until = time.monotonic() + timeout.total_seconds()
    while True:
        ranks = missing()
        if not ranks:
            return
        if time.monotonic() > until:
            minutes = timeout.total_seconds() / 60
            what = f"{_named(ranks)} of this run did not connect to {where} within {minutes:.0f} minutes."
            advice = f"Find out what ended it or keeps it from starting. {here.advice_if_alone}"
            raise RunError(what[0].upper() + what[1:], advice)
        notice.tick()
        time.sleep(POLL_SECONDS)


def _named(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    if len(ranks) > 8:
        shown += f" and {len(ranks) - 8} more"
    return f"processes {shown}" if len(ranks) > 1 else f"process {shown}"
