"""How a process waits for the others of its run: it says for whom and where, and gives up in the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta

from finetune.console import alert
from finetune.errors import RunError
from finetune.ranks import RankInfo

LONGEST = timedelta(minutes=30)  # as long as torch waits for a process group
SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_IN_SILENCE, _SECONDS_BETWEEN_NOTICES = 5.0, 60.0


class Notice:
    """Says every now and then for whom a process waits."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._next: float | None = None

    def tick(self) -> None:
        """Say it if it is time; the waiting begins with the first call, not with the import of torch before it."""
        if self._next is None:
            self._next = time.monotonic() + _SECONDS_IN_SILENCE
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN_NOTICES
            alert(self._text())


def wait_for_all(missing: Callable[[], list[int]], here: RankInfo, patience: timedelta) -> None:
    """Wait until no process of the run is `missing`, whose ranks that returns.

    In Python: inside of torch's C++ a process hears no signal.

    Raises:
        RunError: `patience` is over.
    """
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    notice = Notice(
        lambda: f"Waiting at {where} for {_named(missing())} of the {here.world} processes of this run. {here.if_alone}"
    )
    until = time.monotonic() + patience.total_seconds()
    while ranks := missing():
        if time.monotonic() > until:
            minutes = patience.total_seconds() / 60
            what = f"{_named(ranks)} of this run did not come to {where} in {minutes:.0f} minutes."
            advice = f"Look for what ended it or keeps it from starting. {here.if_alone}"
            raise RunError(what[0].upper() + what[1:], advice)
        notice.tick()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _named(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"process{'es' if len(ranks) > 1 else ''} {shown}"
