"""The jobs that runs are on a cluster: which one a run is, and what SLURM says of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune.errors import RunError
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory

# As squeue writes them; a job that completes may yet be queued again.
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_SECONDS = 60  # a busy controller is slow to answer
# What a job's script says to its run: that it is this job, and if it is queued again when the cluster stops it.
MARK, QUEUED_AGAIN, ONCE = "FINETUNE_JOB", "queued again", "once"


class SlurmUnavailable(RunError):
    """A command of SLURM is not here, or its controller does not answer."""


class SlurmError(RunError):
    """SLURM says no; `what` is its own words."""


@dataclass(frozen=True)
class Job:
    """A job as SLURM sees it: `state` in SLURM's word, and what it waits for."""

    id: str
    state: str
    reason: str = ""

    @property
    def is_pending(self) -> bool:
        """Whether it is in the queue, for the first time or again."""
        return self.state in _WAITING

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in _WAITING | _AT_WORK


class JobQueue:
    """What squeue, and for older jobs sacct, say of some jobs at one moment.

    `unavailable_reason` is why nobody answered; empty if somebody did.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.unavailable_reason = ""
        self._jobs: dict[str, Job] = {}
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return
        try:
            self._jobs = _squeue(wanted)
        except RunError as error:
            self.unavailable_reason = error.what
        if missing := [each for each in wanted if each not in self._jobs]:
            self._jobs |= _sacct(missing)

    def job(self, job_id: str) -> Job | None:
        """Return the job; None if SLURM knows none of this id any more, or did not answer."""
        return self._jobs.get(job_id)


def call_slurm(command: Sequence[str], text: str = "") -> str:
    """Return what a command of SLURM prints when it reads `text`.

    Raises NoAnswer if it is not here or does not answer in a minute, and Refusal if it says no.
    """
    try:
        # Whatever the locale of this shell is: the name of a job may hold any characters.
        done = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS, check=False
        )
    except OSError as error:
        raise SlurmUnavailable(
            f"{command[0]} could not be started: {error.strerror}.", "Is this a cluster of SLURM?"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailable(f"{command[0]} did not answer in {_SECONDS} s.", "Try again later.") from error
    if done.returncode == 0:
        return done.stdout
    lines = [line.split("error: ")[-1].strip() for line in done.stderr.splitlines() if line.strip()]
    what = "; ".join(dict.fromkeys(lines)) or f"exit code {done.returncode}"
    if "contact" in what or "Connection" in what or "configuration source" in what:
        raise SlurmUnavailable(f"{command[0]}: {what}.", "Is SLURM's controller running? Try again later.")
    raise SlurmError(what)


def current_job_id() -> str | None:
    """Return the id of the job that this process's run is, as squeue writes it; None outside of one.

    A run that somebody starts by hand within a job of their own is none: the job is more than that run.
    """
    if MARK not in os.environ or "SLURM_JOB_ID" not in os.environ:
        return None
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def write_job(run: RunDirectory, job_id: str, asked: Sequence[str]) -> None:
    """Keep which job a run is, and what was `asked` of the cluster (overrides). Raises RunError."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json_atomically(run.job_path, {"id": job_id, "submitted_at": now, "asked": list(asked)})


def unfinished_job_id(run: RunDirectory) -> str | None:
    """Return the id of a run's job, if what the run says of itself may not be the last word."""
    job_id = run.read_job().get("id")
    if not isinstance(job_id, str):
        return None
    status = run.read_status()
    is_over = status.get("state") in ("finished", "failed", "interrupted") and not status.get("will_resume")
    return None if is_over else job_id


def _squeue(ids: Sequence[str]) -> dict[str, Job]:
    # Of an array all is asked for: of one element that is gone squeue only says that the id is invalid.
    whole = dict.fromkeys(each.partition("_")[0] for each in ids)
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(whole)}", "--format=%i|%T|%r"]
    try:
        lines = call_slurm(command).splitlines()
    except SlurmError as error:
        if "Invalid job id" in error.what:
            return {}
        raise
    jobs = [Job(*fields) for line in lines if len(fields := line.split("|", maxsplit=2)) == 3]
    return {job.id: job for job in jobs}


def _sacct(ids: Sequence[str]) -> dict[str, Job]:
    """What the accounting remembers; clusters without one have none."""
    try:
        lines = call_slurm(["sacct", "-n", "-X", "-P", "--jobs", ",".join(ids), "--format=JobID,State"]).splitlines()
    except RunError:
        return {}
    # CANCELLED by 1000
    jobs = [Job(fields[0], (fields[1].split() or [""])[0]) for line in lines if len(fields := line.split("|")) == 2]
    return {job.id: job for job in jobs if job.state}
