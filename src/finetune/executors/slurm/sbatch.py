"""The commands sbatch and scancel, with a sentence of advice where SLURM refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.errors import FinetuneError, RunError
from finetune.runs.jobs import Refusal, call

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
        call(["sbatch", "--test-only"], script)
    except Refusal as refusal:
        if _IMPOSSIBLE.search(refusal.what):
            raise _refused(refusal) from refusal
    except RunError as error:
        raise FinetuneError(error.what, error.advice) from error


def submit(script: str) -> str:
    """Submit a script and return the id of its job.

    Raises:
        FinetuneError: SLURM refuses it, or does not answer.
    """
    try:
        output = call(["sbatch", "--parsable"], script)
    except Refusal as refusal:
        raise _refused(refusal) from refusal
    except RunError as error:
        raise FinetuneError(error.what, error.advice) from error
    return output.strip().partition(";")[0]  # with several clusters the cluster's name follows


def cancel(ids: Sequence[str]) -> None:
    """Ask SLURM to end jobs; those that are running save first.

    Raises:
        FinetuneError: SLURM refuses, or does not answer.
    """
    try:
        call(["scancel", *ids])
    except RunError as error:
        raise FinetuneError(f"SLURM did not cancel {', '.join(ids)}: {error.what}", error.advice) from error


def _refused(refusal: Refusal) -> FinetuneError:
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
        names = call(["sinfo", "--noheader", f"--format={field}"]).split()
    except RunError:
        return "what `sinfo` lists"
    return ", ".join(sorted(set(names))) or "none"
