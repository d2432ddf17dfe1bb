"""The current state of a run, read from its directory, its lock and the queue of the cluster."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import yaml

from finetune.config.differences import ABSENT, value_of
from finetune.errors import RunError
from finetune.runs.directory import RunDirectory, State
from finetune.runs.jobs import Job, JobQueue, unfinished_job_id, will_resume
from finetune.runs.lock import is_locked
from finetune.runs.metrics import ReportedMetric, headline
from finetune.runs.metrics_file import last_value

# Every run has these files from its creation on. A single one may be unrelated to finetune; two are no coincidence.
_MARKS = ("config.yaml", "overrides.yaml", "data.json", "environment.json", "status.json")
_FEWEST_MARKS = 2

ENDED = ("finished", "failed", "interrupted")
DEAD = "dead"  # its status says that it is running, but no process holds its lock
DAMAGED = "damaged"
REQUEUED = "requeued"  # waiting in the queue of a cluster after it was running
WAITING = ("pending", REQUEUED)
STATES = (*get_args(State), REQUEUED, DEAD, DAMAGED)

# The C parser is ten times as fast, but missing from some builds of PyYAML.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Record:
    """One run as it is now: `state` is the one in its status, unless its process or its job has ended since."""

    run: RunDirectory
    state: str
    reason: str
    status: dict[str, Any]

    @property
    def name(self) -> str:
        """The unique name of the run: experiment and folder."""
        return f"{self.run.path.parent.name}/{self.run.name}"

    @cached_property
    def job(self) -> str | None:
        """The id of its cluster job, also of one that has ended."""
        job_id = self.run.read_job().get("id")
        return job_id if isinstance(job_id, str) else None

    @property
    def has_active_job(self) -> bool:
        """Whether it is waiting or running as a job of a cluster."""
        return self.job is not None and self.state not in (*ENDED, DEAD, DAMAGED)

    @property
    def step(self) -> int | None:
        """The last optimizer step in its status."""
        step = self.status.get("step")
        return step if isinstance(step, int) else None

    @cached_property
    def started(self) -> datetime:
        """When it was first started."""
        return _parse_timestamp(self.status.get("started_at"), self.run.config_path)

    @cached_property
    def last_update(self) -> datetime:
        """When its status was last written."""
        return _parse_timestamp(self.status.get("time"), self.run.path)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The resolved config; None if it cannot be read."""
        return _read_yaml_mapping(self.run.config_path)

    @cached_property
    def headline(self) -> ReportedMetric | None:
        """The metric it is judged by; None if there is no report, or nothing was evaluated."""
        return headline(self.run.report_data_path)

    def metric(self, name: str) -> float | None:
        """Return the last value of a metric."""
        return last_value(self.run.metrics_path, name)

    def value(self, name: str) -> Any:
        """Return the last value of the metric `name`, else the value of the config key; None if it is neither."""
        metric = self.metric(name)
        if metric is not None:
            return metric
        config_value = value_of(self.config or {}, name)
        return None if config_value is ABSENT else config_value

    def facts(self) -> dict[str, Any]:
        """Return all of this as plain data; times are UTC."""
        found = self.headline
        return {
            "run": self.name,
            "path": str(self.run.path.absolute()),
            "state": self.state,
            "reason": self.reason,
            "step": self.step,
            "eta_seconds": self.status.get("eta_seconds"),
            "started_at": self.started.isoformat(timespec="seconds"),
            "time": self.last_update.isoformat(timespec="seconds"),
            "host": self.status.get("host"),
            "job": self.job,
            "loss": self.metric("loss"),
            "headline": found and {"metric": found.metric, "after": found.after, "change": found.change},
        }


def is_run(path: Path) -> bool:
    """Whether this folder is, or was, a run of finetune."""
    return sum((path / name).is_file() for name in _MARKS) >= _FEWEST_MARKS


def read_run(path: Path, queue: JobQueue | None = None) -> Record:
    """Read the run at `path`; raises nothing: a run that cannot be read has the state `damaged`, and a reason.

    `queue` is the state of the cluster's jobs; without it, the cluster is asked about this run's job.
    """
    run = RunDirectory(path)
    try:
        status = run.read_status()
        damage = _find_damage(run, status)
        if damage:
            return Record(run, DAMAGED, damage, status)
        job_id = unfinished_job_id(run)
        if job_id is None:
            return _from_lock(run, status)
        if queue is None:
            queue = JobQueue([job_id])
        job = queue.job(job_id)
        if job is None:
            return _without_job(run, status, job_id, queue.unavailable_reason)
        return _from_job(run, status, job)
    except RunError as error:
        return Record(run, DAMAGED, error.what, {})


def read_runs(paths: Sequence[Path]) -> list[Record]:
    """Read several runs, asking the cluster about all their jobs at once."""
    job_ids = [_job_id_to_query(path) for path in paths]
    queue = JobQueue(job_id for job_id in job_ids if job_id is not None)
    return [read_run(path, queue) for path in paths]


def _job_id_to_query(path: Path) -> str | None:
    try:
        return unfinished_job_id(RunDirectory(path))
    except RunError:
        return None  # `read_run` reports it


def _from_job(run: RunDirectory, status: dict[str, Any], job: Job) -> Record:
    """Return a run whose job the cluster has: its own status may be outdated."""
    state, reason = str(status["state"]), str(status.get("reason", ""))
    if job.is_pending:
        what = f"Job {job.id} is waiting in the queue."
        if job.reason not in ("", "None"):
            what = f"Job {job.id} is waiting in the queue ({job.reason})."
        if state != "pending":
            state = REQUEUED
        return Record(run, state, f"{reason} {what}".strip(), status)
    if not job.has_ended:
        if state == "pending":
            state, reason = "running", f"Job {job.id} is starting."
        elif will_resume(status):
            state = REQUEUED
        return Record(run, state, reason, status)
    # Read again: the run may have ended between reading its status and asking the cluster.
    status = run.read_status()
    if status.get("state") in ENDED and not will_resume(status):
        return Record(run, str(status["state"]), str(status.get("reason", "")), status)
    state = "failed"
    if job.state == "CANCELLED" or will_resume(status):
        state = "interrupted"
    what = f"Its job {job.id} ended without a final status: {job.state.lower().replace('_', ' ')}."
    return Record(run, state, f"{reason} {what}".strip(), status)


def _without_job(run: RunDirectory, status: dict[str, Any], job_id: str, unavailable_reason: str) -> Record:
    """Return a run whose job is unknown to SLURM, or where SLURM did not answer: then `unavailable_reason` is set."""
    state, reason = str(status["state"]), str(status.get("reason", ""))
    if state not in ("pending", "interrupted"):
        return _from_lock(run, status)
    if unavailable_reason:
        what = f"The state of job {job_id} is unknown: {unavailable_reason}"
        return Record(run, state, f"{reason} {what}".strip(), status)
    what = f"Job {job_id} is no longer in the queue: it was cancelled."
    return Record(run, "interrupted", f"{reason} {what}".strip(), status)


def _find_damage(run: RunDirectory, status: dict[str, Any]) -> str:
    if status.get("state") not in get_args(State):
        return "status.json is missing, unreadable, or has an unknown state."
    if not run.config_path.is_file():
        return "config.yaml is missing."
    return ""


def _from_lock(run: RunDirectory, status: dict[str, Any]) -> Record:
    """Return a run that is no active job: whether a process holds its lock decides whether it is running."""
    locked = None if status["state"] in ENDED else is_locked(run.lock_path)
    if locked is False:
        # Read again: the run may have ended in between, and writes its status before it releases the lock.
        status = run.read_status()
    state, reason = str(status.get("state", DEAD)), str(status.get("reason", ""))
    if state in ENDED or locked:
        return Record(run, state, reason, status)
    if locked is None:
        what = "this file system has no locks, so it is unknown whether its process is alive."
        return Record(run, state, what, status)
    return Record(run, DEAD, _death_reason(state, str(status.get("host"))), status)


def _death_reason(state: str, host: str) -> str:
    reason = f"its process ended without a final status while it was {state}: killed, or the machine went down"
    if host != socket.gethostname():
        reason += f"; this cannot be confirmed from here, it ran on {host}"
    return f"{reason}."


def _parse_timestamp(text: object, fallback: Path) -> datetime:
    """Parse a time of the status; if it is missing or invalid, return the modification time of a file."""
    try:
        timestamp = datetime.fromisoformat(str(text))
        return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
    except ValueError:
        modified = fallback.stat().st_mtime if fallback.exists() else 0
        return datetime.fromtimestamp(modified, UTC)


def _read_yaml_mapping(path: Path) -> dict[str, Any] | None:
    try:
        content = yaml.load(path.read_bytes(), Loader=_Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None
