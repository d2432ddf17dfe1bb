"""What a run directory says about its run; a damaged one says that it is damaged."""

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
from finetune.runs.headline import ReportedMetric, headline
from finetune.runs.jobs import Job, JobQueue, unfinished_job_id
from finetune.runs.lock import is_locked
from finetune.runs.metrics import last_value

# Every run has these from its first moment on. One alone may be anybody's file; two are no accident.
_MARKS = ("config.yaml", "overrides.yaml", "data.json", "environment.json", "status.json")
_FEWEST_MARKS = 2

ENDED = ("finished", "failed", "interrupted")
DEAD = "dead"  # it says that it runs, and no process holds its lock
DAMAGED = "damaged"
REQUEUED = "requeued"  # it waits in a cluster's queue, and has been running before
WAITING = ("pending", REQUEUED)
STATES = (*get_args(State), REQUEUED, DEAD, DAMAGED)

# The C parser is ten times as fast, and not part of every build of PyYAML.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Record:
    """One run as it is at this moment: `state` is what it says, unless nobody is there to say it any more."""

    run: RunDirectory
    state: str
    reason: str
    status: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's name within all runs: experiment and folder."""
        return f"{self.run.path.parent.name}/{self.run.name}"

    @cached_property
    def job(self) -> str | None:
        """The id of the job that it is or was on a cluster."""
        job_id = self.run.read_job().get("id")
        return job_id if isinstance(job_id, str) else None

    @property
    def has_active_job(self) -> bool:
        """Whether it is in the queue of a cluster, or running there."""
        return self.job is not None and self.state not in (*ENDED, DEAD, DAMAGED)

    @property
    def step(self) -> int | None:
        """The last optimizer step that it told of."""
        step = self.status.get("step")
        return step if isinstance(step, int) else None

    @cached_property
    def started(self) -> datetime:
        """When it was started first."""
        return _moment(self.status.get("started_at"), self.run.config_path)

    @cached_property
    def last_update(self) -> datetime:
        """When it last said something about itself."""
        return _moment(self.status.get("time"), self.run.path)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The whole config; None if it cannot be read."""
        return _mapping(self.run.config_path)

    @cached_property
    def headline(self) -> ReportedMetric | None:
        """What it is judged by; None if there is no report, or nothing was evaluated."""
        return headline(self.run)

    def metric(self, name: str) -> float | None:
        """The last value of a metric."""
        return last_value(self.run.metrics_path, name)

    def value(self, name: str) -> Any:
        """What a name stands for: the last value of a metric, else that of a config key; None if it is neither."""
        if (value := self.metric(name)) is not None:
            return value
        found = value_of(self.config or {}, name)
        return None if found is ABSENT else found

    def facts(self) -> dict[str, Any]:
        """All of this for programs; times are UTC."""
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
    """Read the run at `path`; whatever is wrong with it is in the record, and nothing is raised.

    `queue` is what the cluster says of its job and others', which is asked if it is not given.
    """
    run = RunDirectory(path)
    try:
        status = run.read_status()
        if damage := _damage(run, status):
            return Record(run, DAMAGED, damage, status)
        if (job_id := unfinished_job_id(run)) is None:
            return _alive(run, status)
        queue = queue or JobQueue([job_id])
        job = queue.job(job_id)
        return (
            _without_its_job(run, status, job_id, queue.unavailable_reason)
            if job is None
            else _of_its_job(run, status, job)
        )
    except RunError as error:
        return Record(run, DAMAGED, error.what, {})


def read_runs(paths: Sequence[Path]) -> list[Record]:
    """Read runs, of which a cluster is asked once."""
    queue = JobQueue(job_id for path in paths if (job_id := _job_to_ask_for(path)) is not None)
    return [read_run(path, queue) for path in paths]


def _job_to_ask_for(path: Path) -> str | None:
    try:
        return unfinished_job_id(RunDirectory(path))
    except RunError:
        return None  # for `read` to tell


def _of_its_job(run: RunDirectory, status: dict[str, Any], job: Job) -> Record:
    """A run as the cluster sees it, where the run itself cannot have the last word."""
    state, reason = str(status["state"]), str(status.get("reason", ""))
    if job.is_pending:
        waits_for = f" ({job.reason})" if job.reason not in ("", "None") else ""
        what = f"Job {job.id} waits in the queue{waits_for}."
        return Record(run, "pending" if state == "pending" else REQUEUED, f"{reason} {what}".strip(), status)
    if not job.has_ended:
        begins = state == "pending"
        goes_on = REQUEUED if status.get("will_resume") else state
        return Record(run, "running" if begins else goes_on, f"Job {job.id} begins." if begins else reason, status)
    # It may have ended between the two looks.
    status = run.read_status()
    if status.get("state") in ENDED and not status.get("will_resume"):
        return Record(run, str(status["state"]), str(status.get("reason", "")), status)
    is_stop = job.state == "CANCELLED" or status.get("will_resume")
    what = f"Its job {job.id} ended without a word from it: {job.state.lower().replace('_', ' ')}."
    return Record(run, "interrupted" if is_stop else "failed", f"{reason} {what}".strip(), status)


def _without_its_job(run: RunDirectory, status: dict[str, Any], job_id: str, unavailable_reason: str) -> Record:
    """A run whose job SLURM does not know any more, or where it did not answer: `unavailable_reason` says why."""
    reason = str(status.get("reason", ""))
    if status["state"] not in ("pending", "interrupted"):
        return _alive(run, status)
    if unavailable_reason:
        return Record(
            run,
            str(status["state"]),
            f"{reason} How job {job_id} stands is not known: {unavailable_reason}".strip(),
            status,
        )
    what = f"Job {job_id} is not in the queue any more: it was cancelled."
    return Record(run, "interrupted", f"{reason} {what}".strip(), status)


def _damage(run: RunDirectory, status: dict[str, Any]) -> str:
    if status.get("state") not in get_args(State):
        return "status.json is missing or cannot be read, or says nothing that is known here."
    if not run.config_path.is_file():
        return "config.yaml is missing."
    return ""


def _alive(run: RunDirectory, status: dict[str, Any]) -> Record:
    held = None if status["state"] in ENDED else is_locked(run.lock_path)
    if held is False:
        # It may have ended between the two looks: it says so before it lets go of the lock.
        status = run.read_status()
    state, reason = str(status.get("state", DEAD)), str(status.get("reason", ""))
    if state in ENDED or held:
        return Record(run, state, reason, status)
    if held is None:
        return Record(run, state, "this file system has no locks: nobody can tell whether its process lives.", status)
    return Record(run, DEAD, _epitaph(state, str(status.get("host"))), status)


def _epitaph(state: str, host: str) -> str:
    where = "" if host == socket.gethostname() else f", as far as can be seen from here: it was on {host}"
    return f"its process ended without a word while it was {state}: killed, or the machine went down{where}."


def _moment(text: object, else_of: Path) -> datetime:
    """The moment that a status tells, or if it tells none, that of the last change of a file."""
    try:
        moment = datetime.fromisoformat(str(text))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        changed = else_of.stat().st_mtime if else_of.exists() else 0
        return datetime.fromtimestamp(changed, UTC)


def _mapping(path: Path) -> dict[str, Any] | None:
    try:
        content = yaml.load(path.read_bytes(), Loader=_Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None
