"""The end of a run's log, and what comes to it while the run lives."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from finetune.errors import FinetuneError
from finetune.runs.atomic import explained
from finetune.runs.directory import RunDirectory
from finetune.runs.lock import is_locked
from finetune.runs.record import read_run

_SECONDS_BETWEEN_LOOKS = 0.3


def tail(run: RunDirectory, lines: int, *, follow: bool) -> Iterator[str]:
    """The last `lines` lines of run.log (0: all), then with `follow` whatever is added until the process ends.

    Raises FinetuneError if there is no log and none will come, and RunError when the system refuses to read it.
    """
    while not run.log_path.is_file():
        if not follow or not is_locked(run.lock_path):
            record = read_run(run.path)
            advice = record.reason if record.has_active_job else "It ended before it said anything."
            raise FinetuneError(f"the run {run.path} has no log.", advice)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    with explained(f"read {run.log_path}"), run.log_path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from deque(file, maxlen=lines or None)
        while follow:
            # Asked before reading: what was written before the end is then read too.
            living = is_locked(run.lock_path)
            if text := file.read():
                yield text
            elif not living:
                return
            else:
                time.sleep(_SECONDS_BETWEEN_LOOKS)


def status_line(run: RunDirectory) -> str:
    """One line that says how the run stands."""
    record = read_run(run.path)
    return f"{record.name} is {record.state}" + (f": {record.reason}" if record.reason else ".")
