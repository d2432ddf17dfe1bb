"""The status of a run between its submission and its start."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.errors import FinetuneError
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.record import read_run


@contextmanager
def pending(run: RunDirectory, *, existed: bool) -> Iterator[None]:
    """Set a run's status to pending; if the block fails the status is restored, and a run that is new is removed.

    Raises:
        FinetuneError: the run is in the queue already, or a process works on it.
    """
    before = run.read_status() if existed else {}
    if existed:
        _check_not_in_queue(run)
    is_pending = False
    try:
        with run.lock():
            is_pending = True
            run.write_status("pending")
        yield
    except BaseException:
        if is_pending and before:
            write_json_atomically(run.status_path, before)
        elif is_pending and not existed:  # a status that cannot be read does not make a run a new one
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _check_not_in_queue(run: RunDirectory) -> None:
    record = read_run(run.path)
    if record.has_active_job:
        what = f"The run {run.path} is {record.state} as job {record.job}."
        advice = f"`finetune runs cancel {shlex.quote(str(run.path))}` cancels it; then it can be submitted again."
        raise FinetuneError(what, advice)
