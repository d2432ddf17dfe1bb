"""Cluster jobs of runs: the job id of a run, and the state of the job according to SLURM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune.errors import RunError
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory

# States as squeue prints them; a completing job may still be requeued.
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_ACTIVE = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_SECONDS = 60  # timeout of a SLURM command; a busy controller is slow to answer
# The environment variable that marks a run as the job it is in, and its values: whether SLURM requeues the job.
MARK, QUEUED_AGAIN, ONCE = "FINETUNE_JOB", "queued again", "once"


class SlurmUnavailable(RunError):
    """A SLURM command is not installed, or its controller does not answer."""


class SlurmError(RunError):
    """SLURM refused a command; `what` is its own message."""


@dataclass(frozen=True)
class Job:
    """A job according to SLURM: its state in SLURM's spelling, and the reason why it is waiting."""

    id: str
    state: str
    reason: str = ""

    @property
    def is_pending(self) -> bool:
        """Whether it is waiting in the queue, for the first time or again."""
        return self.state in _WAITING

    @property
    def has_ended(self) -> bool:
        """Whether it has ended for good."""
        return self.state not in _WAITING | _ACTIVE


class JobQueue:
    """The states of some jobs at one moment, from squeue, and from sacct for older jobs.

    `unavailable_reason` says why squeue did not answer; empty if it did.
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
        missing = [job_id for job_id in wanted if job_id not in self._jobs]
        if missing:
            self._jobs |= _sacct(missing)

    def job(self, job_id: str) -> Job | None:
        """Return the job; None if SLURM has no record of this id, or did not answer."""
        return self._jobs.get(job_id)


def call_slurm(command: Sequence[str], text: str = "") -> str:
    """Run a SLURM command with `text` as its input, and return its output.

    Raises:
        SlurmUnavailable: it is not installed, or does not answer within a minute.
        SlurmError: it fails.
    """
    try:
        # UTF-8 independent of the locale: the name of a job may contain any characters.
        done = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS, check=False
        )
    except OSError as error:
        raise SlurmUnavailable(
            f"{command[0]} could not be started: {error.strerror}.", "Is this a SLURM cluster?"
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
    """Return the id of the job that was submitted for this run, as squeue prints it; None outside of one.

    A run that is started by hand inside another job, such as an interactive one, is not that job.
    """
    if MARK not in os.environ or "SLURM_JOB_ID" not in os.environ:
        return None
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def write_job(run: RunDirectory, job_id: str, asked: Sequence[str]) -> None:
    """Store the job id of a run, and the overrides that requested resources (`asked`). Raises RunError."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json_atomically(run.job_path, {"id": job_id, "submitted_at": now, "asked": list(asked)})


def will_resume(status: Mapping[str, Any]) -> bool:
    """Whether the job of a run that was interrupted has been requeued, by the run's status."""
    return bool(status.get("will_resume", status.get("goes_on")))  # the second is the key of earlier versions


def unfinished_job_id(run: RunDirectory) -> str | None:
    """Return the id of a run's job unless the status of the run is final."""
    job_id = run.read_job().get("id")
    if not isinstance(job_id, str):
        return None
    status = run.read_status()
    if status.get("state") in ("finished", "failed", "interrupted") and not will_resume(status):
        return None
    return job_id


def _squeue(ids: Sequence[str]) -> dict[str, Job]:
    # Whole arrays, since squeue rejects the id of a single array element that has ended as invalid.
    arrays = dict.fromkeys(job_id.partition("_")[0] for job_id in ids)
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(arrays)}", "--format=%i|%T|%r"]
    try:
        lines = call_slurm(command).splitlines()
    except SlurmError as error:
        if "Invalid job id" in error.what:
            return {}
        raise
    jobs = {}
    for line in lines:
        fields = line.split("|", maxsplit=2)
        if len(fields) == 3:
            jobs[fields[0]] = Job(*fields)
    return jobs


def _sacct(ids: Sequence[str]) -> dict[str, Job]:
    """Return the jobs in SLURM's accounting; empty on clusters without accounting."""
    try:
        lines = call_slurm(["sacct", "-n", "-X", "-P", "--jobs", ",".join(ids), "--format=JobID,State"]).splitlines()
    except RunError:
        return {}
    jobs = {}
    for line in lines:
        fields = line.split("|")
        if len(fields) == 2 and fields[1].strip():
            job_id, state = fields
            jobs[job_id] = Job(job_id, state.split()[0])  # the first word of "CANCELLED by 1000"
    return jobs
