"""The points of a sweep as array jobs of a cluster: handed over, watched, and left alone when the shell goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from finetune.config.command_line import Arguments, is_cluster_override
from finetune.console import say
from finetune.errors import FinetuneError, Interrupted
from finetune.executors.local import TrialOutcome
from finetune.executors.slurm.sbatch import cancel, check_possible
from finetune.executors.slurm.script import Task, script
from finetune.executors.slurm.submit import pending, submit_job
from finetune.preflight.resume import LAUNCHER
from finetune.preflight.slurm import ResourceRequest, SlurmSettings, resource_request
from finetune.runner.run_setup import remove_new_dirs_on_failure
from finetune.runs.directory import RunDirectory
from finetune.runs.environment import write_changes
from finetune.runs.jobs import JobQueue
from finetune.runs.record import DAMAGED, DEAD, ENDED, Record, read_run
from finetune.sweep.planner import Planner
from finetune.sweep.trials import PRUNED, Trial

_SECONDS_BETWEEN_LOOKS = 3.0


@dataclass
class SlurmExecutor:
    """Hands points over to SLURM, those that wait for it as one array, and says how each ended.

    `parallel` of an array run at once. With `at_most` no more than so many are handed over before one of them ends.
    """

    settings: SlurmSettings
    survey: Planner
    arguments: Arguments
    parallel: int
    at_most: int | None = None
    _fresh: list[Trial] = field(default_factory=list)
    _going: dict[Path, Trial] = field(default_factory=dict)
    _pruned: set[Path] = field(default_factory=set)
    _told: str = ""

    def has_room(self) -> bool:
        """Return whether another point can be started."""
        return self.at_most is None or len(self._fresh) + len(self._going) < self.at_most

    def is_idle(self) -> bool:
        """Return whether nothing is in the queue or running."""
        return not self._fresh and not self._going

    def points(self) -> list[Trial]:
        """Return the points that are in the queue or running, but for those that are being stopped."""
        return [point for run, point in self._going.items() if run not in self._pruned]

    def start(self, point: Trial) -> None:
        """Take a point on: it is submitted with the others, unless it is in the queue already."""
        record = read_run(point.run) if point.run.is_dir() else None
        if record is not None and record.has_active_job:
            say(f"  it is {record.state} as job {record.job}")
            self._going[point.run] = point
        else:
            self._fresh.append(point)

    def submit(self) -> None:
        """Hand over what was taken on: one array job for all points that need the same of the cluster.

        Raises:
            FinetuneError: SLURM does not take it; nothing of it is left.
        """
        for shape, points in self._by_shape().items():
            job_id = self._hand_over(shape, points)
            # Before it is said: who is told that there are jobs may press Ctrl-C, and is told which.
            self._going |= {point.run: point for point in points}
            self._fresh = [point for point in self._fresh if point not in points]
            say(f"job {job_id}: {len(points)} point{'s' if len(points) > 1 else ''}, {self.parallel} at once at most")

    def scripts(self) -> list[str]:
        """Return what would be submitted."""
        return [self._script(shape, points) for shape, points in self._by_shape().items()]

    def wait(self) -> list[TrialOutcome]:
        """Wait some seconds, and return the points that have ended.

        Raises:
            FinetuneError: SLURM does not take what is to be submitted, and nothing is left to wait for.
        """
        try:
            self.submit()
        except FinetuneError as error:
            if not self._going:
                raise
            self._say_once(f"{error.what} It is tried again.")
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        return list(self._ended())

    def prune(self, point: Trial) -> None:
        """Ask a point to save and stop, because others are better; if SLURM does not hear it, it is asked again."""
        try:
            cancel([str(RunDirectory(point.run).read_job().get("id", ""))])
        except FinetuneError as error:
            self._say_once(error.what)
        else:
            self._pruned.add(point.run)

    def stop(self, number: int) -> list[TrialOutcome]:
        """Leave all as it is: jobs do not end with the shell that watches them."""
        return []

    def stopped(self, finished: int, again: str) -> Interrupted:
        """Return what is to be said when the shell goes."""
        ids = (str(RunDirectory(run).read_job().get("id", "")).partition("_")[0] for run in self._going)
        jobs = sorted(set(ids) - {""})
        to_end = f"\n  To end them: scancel {' '.join(jobs)}" if jobs else ""
        what = f"{len(self._going)} points are still in the queue or running, and go on without this shell."
        if not self._going:
            what = "Nothing is in the queue."
        return Interrupted(
            f"{what} {finished} finished.",
            f"The same command {'watches them' if self._going else 'goes on'} again:\n    {again}{to_end}",
        )

    def _by_shape(self) -> dict[ResourceRequest, list[Trial]]:
        found: dict[ResourceRequest, list[Trial]] = {}
        for point in self._fresh:
            found.setdefault(resource_request(self.survey.config(point), self.settings), []).append(point)
        return found

    def _script(self, shape: ResourceRequest, points: list[Trial]) -> str:
        tasks = [Task(point.run, point.overrides) for point in points]
        return script(tasks, self.settings, shape, self.arguments, self.parallel)

    def _hand_over(self, shape: ResourceRequest, points: list[Trial]) -> str:
        text = self._script(shape, points)
        check_possible(text)
        asked = [each for each in self.arguments.overrides if is_cluster_override(each) and each != LAUNCHER]
        with ExitStack() as stack:
            for folder in {point.run.parent for point in points}:
                stack.enter_context(remove_new_dirs_on_failure(folder))
            runs = []
            for point in points:
                runs.append(self.survey.claim(point))
                stack.enter_context(pending([runs[-1]]))
                write_changes(point.run)
            return submit_job(text, [run for run, _ in runs], asked, is_array=True)

    def _ended(self) -> Iterator[TrialOutcome]:
        queue = JobQueue(str(RunDirectory(run).read_job().get("id", "")) for run in self._going)
        records = {run: read_run(run, queue) for run in self._going}
        self._tell(records, queue.unavailable_reason)
        for run, record in records.items():
            # Without an answer only the run itself can say that it ended.
            if record.state in ("finished", "failed") or (
                not queue.unavailable_reason and record.state in (*ENDED, DEAD, DAMAGED)
            ):
                yield self._end(self._going.pop(run), record)

    def _end(self, point: Trial, record: Record) -> TrialOutcome:
        if point.run in self._pruned and record.state == "interrupted":
            record.run.write_status("interrupted", PRUNED, cause="stopped")
            return TrialOutcome(point, "interrupted", PRUNED)
        return TrialOutcome(point, record.state, record.reason)

    def _tell(self, records: dict[Path, Record], silence: str) -> None:
        """Say how the points stand, where that has changed."""
        counts = Counter(record.state for record in records.values())
        self._say_once(silence or ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))

    def _say_once(self, told: str) -> None:
        if told != self._told:
            self._told = told
            say(told)
