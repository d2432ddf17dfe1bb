"""The status of a run between its submission and its start."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from finetune.errors import FinetuneError
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.lock import HeldLock
from finetune.runs.record import read_run


@contextmanager
def pending(run: RunDirectory, *, existed: bool, keeps_lock: bool = False) -> Iterator[HeldLock]:
    """Set a run's status to pending; if the block fails the run is as before, and removed if it is new.

    The run is no longer the job that it was; the block may make it another.

    With `keeps_lock` the lock of the run is held inside the block, so that a process that is started there can inherit
    it; without, it is released before the block, because a job acquires it.

    Raises:
        FinetuneError: the run is in the queue already, or a process works on it.
    """
    before, job = {}, {}
    if existed:
        before, job = run.read_status(), run.read_job()
        _check_not_in_queue(run)
    with ExitStack() as stack:
        lock = stack.enter_context(run.lock())
        try:
            # First, so that the epilog of the earlier job, which may still be running, leaves the new status alone.
            run.job_path.unlink(missing_ok=True)
            run.write_status("pending")
            if not keeps_lock:
                stack.close()
            yield lock
        except BaseException:
            if before:
                write_json_atomically(run.status_path, before)
                if job:
                    write_json_atomically(run.job_path, job)
            elif not existed:  # a status that cannot be read does not make a run a new one
                shutil.rmtree(run.path, ignore_errors=True)
            raise


def _check_not_in_queue(run: RunDirectory) -> None:
    record = read_run(run.path)
    if record.has_active_job:
        what = f"The run {run.path} is {record.state} as job {record.job}."
        advice = f"`finetune runs cancel {shlex.quote(str(run.path))}` cancels it; then it can be submitted again."
        raise FinetuneError(what, advice)
