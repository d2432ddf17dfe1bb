"""Submitting and cancelling jobs with sbatch and scancel, with advice if SLURM refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.console import print_error
from finetune.errors import FinetuneError, RunError
from finetune.runs.directory import RunDirectory
from finetune.runs.jobs import SlurmError, call_slurm, write_job

# Reasons that do not go away by waiting. What else keeps a job from starting sbatch itself reports.
_IMPOSSIBLE = re.compile(
    r"configuration is not available|can ?not be satisfied|exceeds? .*limit|Invalid", re.IGNORECASE
)


def check_possible(script: str) -> None:
    """Check whether SLURM could ever start this script; nothing is submitted.

    Raises:
        FinetuneError: it could not, or there is no SLURM.
    """
    try:
        call_slurm(["sbatch", "--test-only"], script)
    except SlurmError as refusal:
        if _IMPOSSIBLE.search(refusal.what):
            raise _refused(refusal) from refusal
    except RunError as error:
        raise FinetuneError(error.what, error.advice) from error


def submit_job(script: str, runs: Sequence[RunDirectory], typed: Sequence[str], *, is_array: bool = False) -> str:
    """Submit a script, record its job and the `typed` overrides of the cluster in each run, and return the job's id.

    Raises:
        FinetuneError: SLURM refuses it or does not answer, or the disk is full; nothing is in the queue.
    """
    job_id = _submit(script)
    try:
        for number, run in enumerate(runs):
            write_job(run, f"{job_id}_{number}" if is_array else job_id, typed)
    except BaseException:
        try:
            cancel([job_id])
        except FinetuneError as error:  # the first error is the one that is raised
            print_error(error)
        raise
    return job_id


def cancel(ids: Sequence[str]) -> None:
    """Ask SLURM to end jobs; those that are running save first.

    Raises:
        FinetuneError: SLURM refuses, or does not answer.
    """
    try:
        call_slurm(["scancel", *ids])
    except RunError as error:
        raise FinetuneError(f"SLURM did not cancel {', '.join(ids)}: {error.what}", error.advice) from error


def _submit(script: str) -> str:
    try:
        output = call_slurm(["sbatch", "--parsable"], script)
    except SlurmError as refusal:
        raise _refused(refusal) from refusal
    except RunError as error:
        raise FinetuneError(error.what, error.advice) from error
    return output.strip().partition(";")[0]  # with several clusters the cluster's name follows


def _refused(refusal: SlurmError) -> FinetuneError:
    what = refusal.what.replace("allocation failure: ", "").replace("Batch job submission failed: ", "").rstrip(".")
    return FinetuneError(f"SLURM refuses the job: {what}. Nothing was submitted.", _advice(what))


def _advice(what: str) -> str:
    if "partition" in what.lower():
        return f"Set hydra.launcher.partition= to one of: {_available('%R')}."
    if "feature" in what.lower():
        return f"Set hydra.launcher.constraint= to a feature that nodes have: {_available('%f')}."
    return "Check hydra.launcher.* and trainer.devices; dry_run=true prints the script, `sinfo` lists what there is."


def _available(field: str) -> str:
    try:
        names = call_slurm(["sinfo", "--noheader", f"--format={field}"]).split()
    except RunError:
        return "what `sinfo` lists"
    return ", ".join(sorted(set(names))) or "none"
