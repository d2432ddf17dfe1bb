"""Hands scripts over to SLURM, and says in a sentence why it does not want one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.errors import FinetuneError, RunError
from finetune.runs.jobs import SlurmError, call_slurm

# Refused for ever, not only at this moment. All else sbatch itself has to say.
_IMPOSSIBLE = re.compile(
    r"configuration is not available|can ?not be satisfied|exceeds? .*limit|Invalid", re.IGNORECASE
)


def check_possible(script: str) -> None:
    """Look whether SLURM could ever start this, with nothing submitted.

    Raises:
        FinetuneError: it says that it cannot; or there is no SLURM.
    """
    try:
        call_slurm(["sbatch", "--test-only"], script)
    except SlurmError as refusal:
        if _IMPOSSIBLE.search(refusal.what):
            raise _mistake(refusal) from refusal
    except RunError as error:
        raise FinetuneError(error.what, error.advice) from error


def submit(script: str) -> str:
    """Hand a script over, and return the id of the job.

    Raises:
        FinetuneError: SLURM does not take it, or cannot be asked.
    """
    try:
        answer = call_slurm(["sbatch", "--parsable"], script)
    except SlurmError as refusal:
        raise _mistake(refusal) from refusal
    except RunError as error:
        raise FinetuneError(error.what, error.advice) from error
    return answer.strip().partition(";")[0]  # with several clusters their name follows


def cancel(ids: Sequence[str]) -> None:
    """Ask SLURM to end jobs; those that run are told to save first.

    Raises:
        FinetuneError: SLURM does not, or cannot be asked.
    """
    try:
        call_slurm(["scancel", *ids])
    except RunError as error:
        raise FinetuneError(f"SLURM did not cancel {', '.join(ids)}: {error.what}", error.advice) from error


def _mistake(refusal: SlurmError) -> FinetuneError:
    what = refusal.what.replace("allocation failure: ", "").replace("Batch job submission failed: ", "").rstrip(".")
    return FinetuneError(f"SLURM refuses the job: {what}. Nothing was submitted.", _advice(what))


def _advice(what: str) -> str:
    if "partition" in what.lower():
        return f"Set hydra.launcher.partition= to one of: {_names('%R')}."
    if "feature" in what.lower():
        return f"Set hydra.launcher.constraint= to what machines have: {_names('%f')}."
    return "Look at hydra.launcher.* and trainer.devices; dry_run=true shows the script, `sinfo` what there is."


def _names(field: str) -> str:
    try:
        return ", ".join(sorted(set(call_slurm(["sinfo", "--noheader", f"--format={field}"]).split()))) or "none"
    except RunError:
        return "what `sinfo` lists"
