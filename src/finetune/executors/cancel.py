"""`finetune runs cancel`: ends jobs of a cluster by asking it to, and runs of this machine by a signal."""

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
    """End runs, and say of each what becomes of it.

    Raises:
        FinetuneError: one of them is over, or cannot be reached from here; then none is ended.
    """
    here = {id(record): _process(record) for record in records if not record.has_active_job}
    jobs = [record.job for record in records if record.has_active_job and record.job]
    if jobs:
        sbatch.cancel(jobs)
    for record in records:
        if record.has_active_job:
            _note(record)
        else:
            _ask_to_stop(record, here[id(record)])


def _note(record: Record) -> None:
    if record.state not in WAITING:
        say(f"{record.name}: job {record.job} was cancelled; it saves and stops.")
        return
    # Nobody else would write it down. What is kept from before is the step that it goes on from.
    what = f"Job {record.job} was cancelled while it waited in the queue."
    record.run.write_status("interrupted", what, cause="cancelled")
    say(f"{record.name}: job {record.job} was taken out of the queue.")


def _process(record: Record) -> int:
    """The process that works on a run of this machine."""
    if not is_locked(record.run.lock_path):
        raise FinetuneError(f"{record.name} is {record.state}: there is nothing to end.", "Nothing was cancelled.")
    found = _HOLDER.fullmatch(record.run.lock_path.read_text(encoding="utf-8", errors="replace"))
    if found is None or found[2] != socket.gethostname():
        where = f" on {found[2]}" if found else ""
        raise FinetuneError(f"{record.name} is at work{where}, not here; nothing was cancelled.", "End it there.")
    number = int(found[1])
    if not _holds(number, record.run.lock_path):
        what = f"{record.name} is at work in another container or of another user; nothing was cancelled."
        raise FinetuneError(what, "End it there.")
    return number


def _holds(process: int, lock: Path) -> bool:
    """Whether the process of this number has the lock: in another container the number is that of another one."""
    files = Path(f"/proc/{process}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True  # no Linux: nobody can tell
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
        what = f"{record.name} could not be ended: {error.strerror}."
        raise FinetuneError(what, "End it as the user who started it.") from error
    else:
        say(f"{record.name} was asked to save and stop.")
