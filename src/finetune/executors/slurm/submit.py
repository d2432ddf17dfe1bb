"""Submitting runs to SLURM: as a whole or not at all, with their state as it is."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.console import print_error
from finetune.errors import FinetuneError
from finetune.executors.slurm.sbatch import cancel, submit
from finetune.preflight.resume import named_folder
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.jobs import write_job
from finetune.runs.record import read_run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def submit_job(text: str, runs: Sequence[RunDirectory], asked: Sequence[str], *, is_array: bool = False) -> str:
    """Submit the job that these runs are, note it in each of them, and return its id.

    Raises:
        FinetuneError: SLURM does not take it, or the disk is full; nothing is in the queue.
    """
    job_id = submit(text)
    try:
        for number, run in enumerate(runs):
            write_job(run, f"{job_id}_{number}" if is_array else job_id, asked)
    except BaseException:
        try:
            cancel([job_id])
        except FinetuneError as error:  # what went wrong first is what is raised
            print_error(error)
        raise
    return job_id


@contextmanager
def pending(runs: Sequence[tuple[RunDirectory, bool]]) -> Iterator[None]:
    """Say of runs that they wait; those that were not there before are gone again if what is inside fails.

    Raises:
        FinetuneError: one of them is in the queue already, or a process works on it.
    """
    waiting: list[tuple[RunDirectory, bool, dict[str, Any]]] = []
    try:
        for run, goes_on in runs:
            before = run.read_status() if goes_on else {}
            if goes_on:
                _check_free(run)
            with run.lock():
                waiting.append((run, goes_on, before))
                run.write_status("pending")
        yield
    except BaseException:
        for run, was_there, before in waiting:
            if before:
                write_json_atomically(run.status_path, before)
            elif not was_there:  # a status that cannot be read does not make a run a new one
                shutil.rmtree(run.path, ignore_errors=True)
        raise


def _check_free(run: RunDirectory) -> None:
    record = read_run(run.path)
    if record.has_active_job:
        what = f"The run {run.path} is {record.state} as job {record.job}."
        raise FinetuneError(
            what, f"`finetune runs cancel {shlex.quote(str(run.path))}` ends it; then it can be submitted again."
        )


def place(cfg: DictConfig) -> Path:
    """Return where a run will be, as far as that can be said before it has its directory."""
    return named_folder(cfg) or Path(cfg.output_root) / str(cfg.experiment) / "NAME"
