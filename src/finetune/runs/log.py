"""The last lines of a run's log, and new ones while the run is active."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from finetune.errors import FinetuneError
from finetune.runs.atomic import explained
from finetune.runs.directory import RunDirectory
from finetune.runs.lock import is_locked
from finetune.runs.record import read_run

_POLL_SECONDS = 0.3


def tail(run: RunDirectory, lines: int, *, follow: bool) -> Iterator[str]:
    """Yield the last `lines` lines of run.log (0: all), then with `follow` new text until the process ends.

    Raises:
        FinetuneError: there is no log, and no process that will write one.
        RunError: the log cannot be read.
    """
    while not run.log_path.is_file():
        if not follow or not is_locked(run.lock_path):
            record = read_run(run.path)
            advice = "It ended before it printed anything."
            if record.has_active_job:
                advice = record.reason
            raise FinetuneError(f"the run {run.path} has no log.", advice)
        time.sleep(_POLL_SECONDS)
    with explained(f"read {run.log_path}"), run.log_path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from deque(file, maxlen=lines or None)
        while follow:
            # Checked before reading, so that text written just before the end is read too.
            is_active = is_locked(run.lock_path)
            text = file.read()
            if text:
                yield text
            elif not is_active:
                return
            else:
                time.sleep(_POLL_SECONDS)


def status_line(run: RunDirectory) -> str:
    """Return one line with the state of the run and its reason."""
    record = read_run(run.path)
    if record.reason:
        return f"{record.name} is {record.state}: {record.reason}"
    return f"{record.name} is {record.state}."
