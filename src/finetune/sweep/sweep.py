"""Runs the trials of a sweep through an executor, each a run of its own; this process never trains."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune import signals
from finetune.config.build import build
from finetune.config.command_line import Arguments
from finetune.console import say
from finetune.errors import CheckFailed, FinetuneError
from finetune.executors.base import Executor, ExecutorFactory, RunBatch, RunOutcome
from finetune.executors.from_config import check_resources, executor_from_config
from finetune.sweep.optuna_search import check_search, searching
from finetune.sweep.planner import Planner
from finetune.sweep.ranking import Ranking, say_ranked, write_ranked
from finetune.sweep.search_space import read_search_space
from finetune.sweep.settings import SweepSettings
from finetune.sweep.trials import PRUNED, Trial, TrialResult, is_finished

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.sweep.search_space import SearchSpace


class TrialScheduler(Protocol):
    """Decides which trial comes next, from the results of those that ended."""

    ranking: Ranking

    def next(self) -> Trial | None:
        """Return the next trial, `None` if there is none."""

    def record(self, result: TrialResult) -> None:
        """Record how a trial ended."""

    def should_prune(self, trial: Trial) -> bool:
        """Return whether a running trial is so much worse than others that it should stop."""

    def waiting(self) -> int:
        """Return how many trials are still to come."""

    def earlier(self) -> list[tuple[Trial, RunOutcome]]:
        """Return the trials that ended in earlier commands, and are not returned by `next`."""


@dataclass
class GridScheduler:
    """All trials of a grid in their order."""

    trials: list[Trial]
    ranking: Ranking

    def next(self) -> Trial | None:
        """Return the next trial."""
        if not self.trials:
            return None
        return self.trials.pop(0)

    def record(self, result: TrialResult) -> None:
        """Do nothing: the trials do not depend on each other."""

    def should_prune(self, trial: Trial) -> bool:
        """Return False: every trial of a grid was asked for."""
        return False

    def waiting(self) -> int:
        """Return how many trials are still to come."""
        return len(self.trials)

    def earlier(self) -> list[tuple[Trial, RunOutcome]]:
        """Return nothing: `next` returns all trials, also those that are finished."""
        return []


@dataclass
class Progress:
    """The results so far: printed at once, and written after every trial."""

    scheduler: TrialScheduler
    command: str
    results: dict[Path, TrialResult] = field(default_factory=dict)
    _warnings: set[str] = field(default_factory=set)

    def warn(self, text: str) -> None:
        """Print a line unless it was printed before."""
        if text not in self._warnings:
            self._warnings.add(text)
            say(text, style="yellow")

    def add_earlier(self, trial: Trial, outcome: RunOutcome) -> TrialResult:
        """Add a trial without printing it."""
        metric, value = "", None
        if outcome.state == "finished":
            metric, value = self.scheduler.ranking.value_of(trial.run)
        result = TrialResult(trial, outcome.state, outcome.reason, metric, value)
        self.results[trial.run] = result
        return result

    def add(self, trial: Trial, outcome: RunOutcome, prefix: str = "") -> None:
        """Add a trial that has just ended, print it, rewrite the files, and report it to the scheduler."""
        result = self.add_earlier(trial, outcome)
        style = "bold red" if result.is_failure else ""
        say(f"trial {trial.run.name}: {prefix}{result.summary()}", style=style)
        for folder in {result.trial.run.parent for result in self.results.values()}:
            write_ranked(folder, self.ranked(), self.command, self.scheduler.waiting())
        self.scheduler.record(result)

    def ranked(self) -> list[TrialResult]:
        """Return the results, the best first."""
        return self.scheduler.ranking.ranked(list(self.results.values()))


@dataclass(frozen=True)
class SweepPlan:
    """A sweep whose trials have been checked; of a search `trials` are those at the ends of its intervals."""

    space: SearchSpace
    planner: Planner
    configs: list[DictConfig]
    settings: SweepSettings
    trials: list[Trial]


def plan_sweep(arguments: Arguments) -> SweepPlan:
    """Check every trial of a sweep.

    Raises:
        CheckFailed: a trial has a mistake.
    """
    space = read_search_space(arguments)
    candidates = space.one_at_a_time() if space.is_search else space.grid()
    planner = Planner(arguments)
    configs = planner.check(candidates)
    signals.raise_on_interrupt()
    settings: SweepSettings = build(configs[0].sweep, "sweep")
    if space.is_search:
        problems = check_search(configs[0], settings)
        if problems:
            raise CheckFailed(problems)
    problems = check_resources(configs, settings.parallel, share_gpus=settings.share_gpus)
    return SweepPlan(space, planner, configs, settings, planner.trials(candidates, configs, problems))


def sweep(arguments: Arguments, make_executor: ExecutorFactory = executor_from_config) -> int:
    """Check every trial, run those that are not finished, and rank all; return 1 if any failed, else 0.

    Raises:
        CheckFailed: a trial has a mistake; nothing was started.
        Interrupted: the sweep was stopped; its trials too, unless their executor lets them continue.
    """
    plan = plan_sweep(arguments)
    space, planner, configs, settings, trials = plan.space, plan.planner, plan.configs, plan.settings, plan.trials
    cfg = configs[0]
    if cfg.check:
        _say_fine(len(trials))
        return 0
    batch = RunBatch(arguments, configs, space.is_search, settings.parallel, planner.config, planner.claim)
    executor = make_executor(batch)
    if executor.is_detached:
        if space.is_search:  # a dry run: the later trials depend on results
            trials = trials[:1]
        return _submit_all(trials, executor, dry_run=bool(cfg.dry_run))
    with _scheduler(space, planner, cfg, settings, trials) as scheduler:
        return _run(scheduler, executor, arguments.command(arguments.overrides))


def _say_fine(count: int) -> None:
    fine = f"All {count:,} trials are fine"
    if count == 1:
        fine = "The one trial is fine"
    say(f"{fine}; nothing was started.", style="bold green")


@contextmanager
def _scheduler(
    space: SearchSpace, planner: Planner, cfg: DictConfig, settings: SweepSettings, trials: list[Trial]
) -> Iterator[TrialScheduler]:
    if space.is_search:
        with searching(space, planner, cfg, settings, trials[0]) as search:
            yield search
    else:
        yield GridScheduler(trials, Ranking(settings.metric, settings.direction))


def _submit_all(trials: list[Trial], executor: Executor, *, dry_run: bool) -> int:
    """Submit all trials that are not finished, without waiting for them."""
    unfinished = [trial for trial in trials if not is_finished(trial.run)]
    for trial in unfinished:
        executor.submit(trial.request)
    executor.flush()
    if not dry_run:
        text = "`finetune runs` shows the state of the others."
        finished = len(trials) - len(unfinished)
        if finished:
            text = f"{finished} trials are finished already. {text}"
        say(text)
    return 0


def _run(scheduler: TrialScheduler, executor: Executor, command: str) -> int:
    """Run the trials to the end, and print them, the best first."""
    progress = Progress(scheduler, command)
    active: dict[Path, Trial] = {}  # submitted and not ended
    for trial, outcome in scheduler.earlier():
        progress.add_earlier(trial, outcome)
    with signals.Installed(signals.STOPS, signals.raise_stop), signals.Installed(signals.QUITS, signals.raise_at_once):
        try:
            _run_trials(scheduler, executor, progress, active)
        except KeyboardInterrupt as stop:
            for outcome in executor.stop(_number_for_runs(stop)):
                progress.add(active.pop(outcome.path), outcome)
            finished = sum(result.state == "finished" for result in progress.results.values())
            raise executor.interrupted(finished, command) from None
        except BaseException:
            executor.stop(signal.SIGTERM)  # or its processes would stay
            raise
    say_ranked(progress.ranked())
    return int(any(result.is_failure for result in progress.results.values()))


def _run_trials(scheduler: TrialScheduler, executor: Executor, progress: Progress, active: dict[Path, Trial]) -> None:
    while True:
        _submit_next(scheduler, executor, progress, active)
        if not active:
            return
        outcomes = executor.poll()
        for outcome in outcomes:
            progress.add(active.pop(outcome.path), outcome)
        for path in executor.running():
            if scheduler.should_prune(active[path]):
                _prune(executor, path, progress)
        if not outcomes:
            time.sleep(executor.poll_seconds)


def _prune(executor: Executor, path: Path, progress: Progress) -> None:
    """Cancel a trial; if that fails it is reported, and the next poll tries again because the trial still runs."""
    try:
        executor.cancel(path, PRUNED)
    except FinetuneError as error:
        progress.warn(f"trial {path.name} could not be stopped: {error.what} It is tried again.")


def _submit_next(scheduler: TrialScheduler, executor: Executor, progress: Progress, active: dict[Path, Trial]) -> None:
    """Submit as many trials as the executor has room for."""
    while executor.has_room():
        trial = scheduler.next()
        if trial is None:
            return
        if is_finished(trial.run):
            progress.add(trial, RunOutcome(trial.run, "finished", ""), "finished already, ")
            continue
        text = f"trial {trial.run.name}: {' '.join(trial.own_overrides)}"
        if trial.run.exists():
            text += " (resumes)"
        say(f"\n{text}", style="bold")
        active[trial.run] = trial  # first: if Ctrl-C comes now the executor may have started it
        executor.submit(trial.request)


def _number_for_runs(stop: KeyboardInterrupt) -> int:
    """Return the signal that the runs get: they are in sessions of their own, and would not get it otherwise.

    SIGTERM if a terminal was closed, and SIGKILL for SIGQUIT, which ends the sweep at once.
    """
    number = getattr(stop, "number", signal.SIGINT)
    if number in signals.QUITS:
        return signal.SIGKILL
    if number == signal.SIGINT:
        return signal.SIGINT
    return signal.SIGTERM
