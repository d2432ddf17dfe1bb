"""Runs as jobs of a SLURM cluster: submitted, watched, and left running when this process ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from finetune.config.command_line import Arguments, is_cluster_override
from finetune.console import say
from finetune.errors import FinetuneError, Interrupted
from finetune.executors.base import RunOutcome, RunRequest
from finetune.executors.pending import pending
from finetune.executors.slurm.sbatch import cancel, check_possible, submit_job
from finetune.executors.slurm.script import script
from finetune.preflight.resume import LAUNCHER
from finetune.preflight.slurm import ResourceRequest, SlurmSettings
from finetune.runner.run_setup import remove_new_dirs_on_failure
from finetune.runs.directory import RunDirectory
from finetune.runs.environment import write_changes
from finetune.runs.jobs import JobQueue
from finetune.runs.record import DAMAGED, DEAD, ENDED, Record, read_run


@dataclass
class SlurmExecutor:
    """Submits runs to SLURM and reports how each ended.

    Runs that were submitted since the last `flush` and need the same resources become one array job, of which
    `parallel` tasks run at once; with `parallel=None` each becomes a job of its own, and must not be in the queue yet.
    `resources_of` returns what a run needs, `claim` creates its run directory and returns it, and whether it existed.
    With `at_most` no more runs than that are submitted before one of them ends. `is_detached`: `flush` only submits,
    and raises what goes wrong. With `dry_run` it prints the scripts instead. `report` gets a line on what happens.
    """

    settings: SlurmSettings
    arguments: Arguments
    resources_of: Callable[[RunRequest], ResourceRequest]
    claim: Callable[[RunRequest], tuple[RunDirectory, bool]]
    parallel: int | None = None
    at_most: int | None = None
    is_detached: bool = False
    dry_run: bool = False
    report: Callable[[str], None] = say
    _waiting: list[RunRequest] = field(default_factory=list)  # for the next flush
    _active: list[Path] = field(default_factory=list)  # in the queue or running
    _cancelled: dict[Path, str | None] = field(default_factory=dict)  # with the reason for the status
    _last_report: str = ""

    poll_seconds: ClassVar[float] = 3.0

    def has_room(self) -> bool:
        """Return whether another run can be submitted."""
        return self.at_most is None or len(self._waiting) + len(self._active) < self.at_most

    def submit(self, request: RunRequest) -> None:
        """Add a run to the batch that the next `flush` submits; one of a sweep may be in the queue already."""
        if self.parallel is not None and request.path.is_dir():
            record = read_run(request.path)
            if record.has_active_job:
                self.report(f"  it is {record.state} as job {record.job}")
                self._active.append(request.path)
                return
        self._waiting.append(request)

    def flush(self) -> None:
        """Submit the batch, or print its scripts if this is a dry run.

        Raises:
            FinetuneError: SLURM refuses a job; nothing is left of it. While other runs are watched the refusal is only
                reported, and the next call tries again.
        """
        if self.dry_run:
            for resources, requests in self._by_resources():
                say(self._script(resources, requests))
            return
        try:
            for resources, requests in self._by_resources():
                self._submit_together(resources, requests)
        except FinetuneError as error:
            if self.is_detached or not self._active:
                raise
            self._report_change(f"{error.what} It is tried again.")

    def poll(self) -> list[RunOutcome]:
        """Submit what was refused before, and return the runs that have ended."""
        self.flush()
        queue = JobQueue(_job_id(path) for path in self._active)
        records = {path: read_run(path, queue) for path in self._active}
        counts = Counter(record.state for record in records.values())
        self._report_change(
            queue.unavailable_reason or ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        )
        outcomes = []
        for path, record in records.items():
            if _has_ended(record, queue):
                self._active.remove(path)
                outcomes.append(self._outcome(path, record))
        return outcomes

    def running(self) -> list[Path]:
        """Return the directories of the runs that are in the queue or running, and were not cancelled."""
        return [path for path in self._active if path not in self._cancelled]

    def cancel(self, path: Path, reason: str | None = None) -> None:
        """Ask SLURM to end a run's job; `reason` is written to its status when it has ended.

        Raises:
            FinetuneError: SLURM refuses or does not answer; the run stays in `running`.
        """
        cancel([_job_id(path)])
        self._cancelled[path] = reason

    def stop(self, number: int) -> list[RunOutcome]:
        """Leave all jobs as they are: they do not end with the process that watches them."""
        return []

    def interrupted(self, finished: int, command: str) -> Interrupted:
        """Return which jobs continue without this process, and how they can be watched again or cancelled."""
        active = len(self._active)
        if active == 0:
            what = f"Nothing is in the queue. {finished} finished."
            return Interrupted(what, f"The same command resumes it:\n    {command}")
        what = f"{active} trials are still in the queue or running, and continue without this shell."
        if active == 1:
            what = "1 trial is still in the queue or running, and continues without this shell."
        advice = f"The same command watches them again:\n    {command}"
        jobs = {_job_id(path).partition("_")[0] for path in self._active} - {""}
        if jobs:
            advice += f"\n  To cancel them: scancel {' '.join(sorted(jobs))}"
        return Interrupted(f"{what} {finished} finished.", advice)

    def _by_resources(self) -> list[tuple[ResourceRequest, list[RunRequest]]]:
        """Return the batch as the jobs that it becomes."""
        if self.parallel is None:
            return [(self.resources_of(request), [request]) for request in self._waiting]
        groups: dict[ResourceRequest, list[RunRequest]] = {}
        for request in self._waiting:
            groups.setdefault(self.resources_of(request), []).append(request)
        return list(groups.items())

    def _script(self, resources: ResourceRequest, requests: list[RunRequest]) -> str:
        return script(requests, self.settings, resources, self.arguments, self.parallel)

    def _submit_together(self, resources: ResourceRequest, requests: list[RunRequest]) -> None:
        """Submit runs as one job; their directories are created only if SLURM accepts it."""
        check_possible(self._script(resources, requests))
        typed = [text for text in self.arguments.overrides if is_cluster_override(text) and text != LAUNCHER]
        runs: list[RunDirectory] = []
        claimed: list[RunRequest] = []
        with ExitStack() as stack:
            for folder in {request.path.parent for request in requests}:
                stack.enter_context(remove_new_dirs_on_failure(folder))
            for request in requests:
                run, existed = self.claim(request)
                stack.enter_context(pending(run, existed=existed))
                write_changes(run.path)
                runs.append(run)
                claimed.append(replace(request, path=run.path))  # a run without a name gets one when it is claimed
            is_array = self.parallel is not None
            job_id = submit_job(self._script(resources, claimed), runs, typed, is_array=is_array)
        # Before the report: Ctrl-C may be pressed as soon as it is printed, and must list this job.
        self._active += [run.path for run in runs]
        self._waiting = [request for request in self._waiting if request not in requests]
        if self.parallel is None:
            self.report(f"job {job_id} is in the queue; run directory: {runs[0].path}")
        else:
            trials = "1 trial" if len(runs) == 1 else f"{len(runs)} trials"
            self.report(f"job {job_id}: {trials}, {self.parallel} at once at most")

    def _outcome(self, path: Path, record: Record) -> RunOutcome:
        reason = self._cancelled.get(path)
        if reason is not None and record.state == "interrupted":
            record.run.write_status("interrupted", reason, cause="stopped")
            return RunOutcome(path, "interrupted", reason)
        return RunOutcome(path, record.state, record.reason)

    def _report_change(self, text: str) -> None:
        """Report a line unless it is the same as the last time."""
        if text != self._last_report:
            self._last_report = text
            self.report(text)


def _job_id(path: Path) -> str:
    return str(RunDirectory(path).read_job().get("id", ""))


def _has_ended(record: Record, queue: JobQueue) -> bool:
    if record.state in ("finished", "failed"):
        return True
    # If SLURM did not answer, only the run itself knows that it ended.
    return not queue.unavailable_reason and record.state in (*ENDED, DEAD, DAMAGED)
