"""A run as a job of a SLURM cluster: it handles SLURM's signals and finds out why it was stopped."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from finetune import signals
from finetune.console import say
from finetune.preflight.slurm import seconds_of
from finetune.runs.atomic import read_mapping, write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.environment import describe_code, describe_machine
from finetune.runs.failure_causes import Cause
from finetune.runs.jobs import MARK, QUEUED_AGAIN, SlurmError, SlurmUnavailable, call_slurm, current_job_id, write_job

_WHAT: dict[Cause, str] = {
    "preempted": "Job {} was preempted: it has to make room for another",
    "time limit": "The time limit of job {} is reached",
    "cancelled": "Job {} was cancelled",
    "stopped": "Job {} was asked to stop",
}
_warned: list[bool] = []


@dataclass(frozen=True)
class Stop:
    """Why a job was stopped, as a cause and as a sentence, and whether its run is resumed without a user."""

    cause: Cause
    what: str
    will_resume: bool


def handle_warning() -> None:
    """Handle the signal that SLURM sends before it ends a job as a SIGTERM."""
    if current_job_id() is not None:
        signals.install([signal.SIGUSR1], _warn)


def _warn(_number: int, _frame: FrameType | None) -> None:
    _warned.append(True)
    signal.raise_signal(signal.SIGTERM)


def record_job(run: RunDirectory) -> None:
    """Record which job the run is and on which machine; a run that is resumed without a job is none any more.

    Raises:
        RunError: the system refuses.
    """
    job_id, recorded = current_job_id(), run.read_job()
    if job_id is None:
        run.job_path.unlink(missing_ok=True)
        return
    if recorded.get("id") != job_id:
        write_job(run, job_id, recorded.get("asked", []))
    submitted = read_mapping(run.environment_path)
    # The code that runs is the current one, and the record is of the time of submission.
    if any(submitted.get(name) != state for name, state in describe_code(Path.cwd()).items()):
        say("The code has changed since this job was submitted: another commit, or other uncommitted changes.")
    write_json_atomically(run.environment_path, submitted | describe_machine())


def is_restart() -> bool:
    """Return whether this job was requeued: then its run resumes from its newest checkpoint."""
    return current_job_id() is not None and _restarts() > 0


def stop_reason(has_progressed: bool) -> Stop | None:
    """Return why this job was stopped; None outside of one. `has_progressed`: a step was made since it started."""
    job_id = current_job_id()
    if job_id is None:
        return None
    facts = job_facts()
    cause = _cause(facts)
    what = f"{_WHAT[cause].format(job_id)}."
    if int(facts.get("Restarts", "0")) > _restarts():
        return Stop(cause, f"SLURM has requeued job {job_id}.", will_resume=True)
    if cause in ("preempted", "time limit") and is_active(facts):
        return _requeue_or_not(cause, what, has_progressed)
    return Stop(cause, what, will_resume=False)


def _requeue_or_not(cause: Cause, what: str, has_progressed: bool) -> Stop:
    """Decide whether a job that SLURM has not ended yet is requeued, which it has to ask for itself."""
    if cause == "time limit" and not has_progressed:
        # The next attempt would get no further.
        what = f"{what} It was too short for a single step: give it more with hydra.launcher.time."
        return Stop(cause, what, will_resume=False)
    if os.environ[MARK] != QUEUED_AGAIN:
        return Stop(cause, f"{what} It is not requeued, because of hydra.launcher.requeue=false.", will_resume=False)
    return Stop(cause, f"{what} It is requeued.", will_resume=True)


def job_facts() -> dict[str, str]:
    """Return SLURM's facts about the job of this process, by their names; empty if it does not answer."""
    with contextlib.suppress(SlurmUnavailable, SlurmError):
        words = call_slurm(["scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]]).split()
        return dict(reversed([word.split("=", maxsplit=1) for word in words if "=" in word]))
    return {}


def is_active(facts: dict[str, str]) -> bool:
    """Return whether SLURM has not ended this job yet; one that it ended (COMPLETING) it has requeued, or will not."""
    return facts.get("JobState") in ("RUNNING", "SIGNALING", "STOPPED", "SUSPENDED")


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _cause(facts: dict[str, str]) -> Cause:
    if facts.get("PreemptTime", "None") != "None" or int(facts.get("Restarts", "0")) > _restarts():
        return "preempted"
    if _warned or _is_out_of_time(facts):
        return "time limit"
    if facts and not is_active(facts):
        return "cancelled"
    return "stopped"


def _is_out_of_time(facts: dict[str, str]) -> bool:
    ran, limit = (seconds_of(facts.get(name, "")) for name in ("RunTime", "TimeLimit"))
    return ran is not None and limit is not None and ran >= limit
