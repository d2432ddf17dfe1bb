"""Submitting a job and recording it in its runs, both or neither."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.console import complain
from finetune.errors import FinetuneError
from finetune.executors.slurm.sbatch import cancel, submit
from finetune.runs.directory import RunDirectory
from finetune.runs.jobs import write_job


def submit_job(text: str, runs: Sequence[RunDirectory], typed: Sequence[str], *, is_array: bool = False) -> str:
    """Submit a script, record its job and the `typed` overrides of the cluster in each run, and return the job's id.

    Raises:
        FinetuneError: SLURM refuses it, or the disk is full; nothing is in the queue.
    """
    job_id = submit(text)
    try:
        for number, run in enumerate(runs):
            write_job(run, f"{job_id}_{number}" if is_array else job_id, typed)
    except BaseException:
        try:
            cancel([job_id])
        except FinetuneError as error:  # the first error is the one that is raised
            complain(error)
        raise
    return job_id
