"""`finetune runs cancel`: jobs are cancelled by SLURM, runs on this machine by a signal."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from finetune.console import say
from finetune.errors import FinetuneError
from finetune.executors.slurm import sbatch
from finetune.runs.lock import is_locked
from finetune.runs.record import WAITING, Record

_HOLDER = re.compile(r"process (\d+) on (.*)")  # as lock.py writes it


def cancel_runs(records: Sequence[Record]) -> None:
    """Cancel runs, and print what happens to each.

    Raises:
        FinetuneError: one of them has ended, or cannot be reached from here; then none is cancelled.
    """
    processes = {id(record): _process_of(record) for record in records if not record.has_active_job}
    jobs = [record.job for record in records if record.has_active_job and record.job]
    if jobs:
        sbatch.cancel(jobs)
    for record in records:
        if record.has_active_job:
            _report_cancelled(record)
        else:
            _ask_to_stop(record, processes[id(record)])


def _report_cancelled(record: Record) -> None:
    if record.state not in WAITING:
        say(f"{record.name}: job {record.job} was cancelled; it saves and stops.")
        return
    # No other process would write it. The last step in the status, from which it resumes, is kept.
    what = f"Job {record.job} was cancelled while it was in the queue."
    record.run.write_status("interrupted", what, cause="cancelled")
    say(f"{record.name}: job {record.job} was removed from the queue.")


def _process_of(record: Record) -> int:
    """Return the id of the process that works on a run of this machine."""
    if not is_locked(record.run.lock_path):
        raise FinetuneError(f"{record.name} is {record.state}: there is nothing to cancel.", "Nothing was cancelled.")
    found = _HOLDER.fullmatch(record.run.lock_path.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        what = f"{record.name} is in use, but its process is unknown: the file {record.run.lock_path} does not name it."
        raise FinetuneError(f"{what} Nothing was cancelled.", "If it is just starting, try again in a moment.")
    if found[2] != socket.gethostname():
        what = f"{record.name} is running on {found[2]}, not here; nothing was cancelled."
        raise FinetuneError(what, "Cancel it there.")
    number = int(found[1])
    if not _holds(number, record.run.lock_path):
        what = f"{record.name} is running in another container or as another user; nothing was cancelled."
        raise FinetuneError(what, "Cancel it there.")
    return number


def _holds(process: int, lock: Path) -> bool:
    """Return whether the process of this id has the lock: in another container the id belongs to another process."""
    files = Path(f"/proc/{process}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True  # not Linux: it cannot be checked
    try:
        return any(file.samefile(lock) for file in files.iterdir() if file.exists())
    except OSError:
        return False


def _ask_to_stop(record: Record, process: int) -> None:
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        say(f"{record.name} has just ended by itself.")
    except OSError as error:
        what = f"{record.name} could not be cancelled: {error.strerror}."
        raise FinetuneError(what, "Cancel it as the user who started it.") from error
    else:
        say(f"{record.name} was asked to save and stop.")
