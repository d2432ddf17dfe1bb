"""What a run does that is a job of a cluster: it hears SLURM's signals, and says why it was stopped."""

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
    "preempted": "Job {} has to make room for another",
    "time limit": "The time of job {} is over",
    "cancelled": "Job {} was cancelled",
    "stopped": "Job {} was told to stop",
}
_warned: list[bool] = []


@dataclass(frozen=True)
class Stop:
    """Why a job was stopped, in a word and a sentence, and whether its run goes on by itself."""

    cause: Cause
    what: str
    will_resume: bool


def listen() -> None:
    """From now on the signal that SLURM sends before it ends a job does what SIGTERM does at that moment."""
    if current_job_id() is not None:
        signals.listen([signal.SIGUSR1], _warn)


def _warn(_number: int, _frame: FrameType | None) -> None:
    _warned.append(True)
    signal.raise_signal(signal.SIGTERM)


def record_job(run: RunDirectory) -> None:
    """Note which job the run is and on which machine; one that goes on by hand is no job any more.

    Raises:
        RunError: the system refuses.
    """
    job_id, noted = current_job_id(), run.read_job()
    if job_id is None:
        run.job_path.unlink(missing_ok=True)
        return
    if noted.get("id") != job_id:
        write_job(run, job_id, noted.get("asked", []))
    submitted = read_mapping(run.environment_path)
    # What runs is the code that is there now, and the record says which was there then.
    if any(submitted.get(name) != state for name, state in describe_code(Path.cwd()).items()):
        say("The code is no longer as it was when this job was submitted: another commit, or other changes to it.")
    write_json_atomically(run.environment_path, submitted | describe_machine())


def is_restart() -> bool:
    """Return whether this job has been running before: then its run goes on from its newest checkpoint."""
    return current_job_id() is not None and _restarts() > 0


def stop_reason(has_moved: bool) -> Stop | None:
    """Return why this job was stopped; None outside of one. `has_moved` says that a step was made since it began."""
    job_id = current_job_id()
    if job_id is None:
        return None
    facts = facts_here()
    cause = _cause(facts)
    what, goes_on = f"{_WHAT[cause].format(job_id)}.", False
    if int(facts.get("Restarts", "0")) > _restarts():
        what, goes_on = f"SLURM has put job {job_id} back into the queue.", True
    elif cause in ("preempted", "time limit") and is_at_work(facts):
        what, goes_on = _ours_to_say(cause, what, has_moved)
    return Stop(cause, what, goes_on)


def _ours_to_say(cause: Cause, what: str, has_moved: bool) -> tuple[str, bool]:
    """Whether a job that is still at work is to be queued again, which it has to ask for itself."""
    if cause == "time limit" and not has_moved:
        # It would be the same the next time, and the next.
        return f"{what} It was too short for a single step: give it more with hydra.launcher.time.", False
    if os.environ[MARK] != QUEUED_AGAIN:
        return f"{what} It is not queued again, as hydra.launcher.requeue=false says.", False
    return f"{what} It is queued again.", True


def facts_here() -> dict[str, str]:
    """Return what SLURM says of the job that this process is in; empty if it does not answer."""
    with contextlib.suppress(SlurmUnavailable, SlurmError):
        words = call_slurm(["scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]]).split()
        return dict(reversed([word.split("=", maxsplit=1) for word in words if "=" in word]))
    return {}


def is_at_work(facts: dict[str, str]) -> bool:
    """Whether SLURM has not ended this job yet; one that it ended (COMPLETING) it has queued again if it wanted to."""
    return facts.get("JobState") in ("RUNNING", "SIGNALING", "STOPPED", "SUSPENDED")


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _cause(facts: dict[str, str]) -> Cause:
    if facts.get("PreemptTime", "None") != "None" or int(facts.get("Restarts", "0")) > _restarts():
        return "preempted"
    if _warned or _is_out_of_time(facts):
        return "time limit"
    return "cancelled" if facts and not is_at_work(facts) else "stopped"


def _is_out_of_time(facts: dict[str, str]) -> bool:
    ran, limit = (seconds_of(facts.get(name, "")) for name in ("RunTime", "TimeLimit"))
    return ran is not None and limit is not None and ran >= limit
