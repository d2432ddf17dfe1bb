"""Sweeps: every point a fresh process with a run directory of its own; this process never trains."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from finetune import signals
from finetune.config.build import build
from finetune.config.command_line import Arguments
from finetune.console import say
from finetune.errors import CheckFailed, Problem
from finetune.executors.local import LocalExecutor, TrialOutcome
from finetune.executors.resources import slot_notes, slots
from finetune.executors.slurm.executor import SlurmExecutor
from finetune.preflight.slurm import settings_of
from finetune.sweep.optuna_search import check_search, searching
from finetune.sweep.planner import Planner
from finetune.sweep.ranking import Ranking, say_ranked, write_ranked
from finetune.sweep.search_space import read_search_space
from finetune.sweep.settings import SweepSettings
from finetune.sweep.trials import Trial, TrialResult, is_finished

if TYPE_CHECKING:
    from omegaconf import DictConfig


class TrialScheduler(Protocol):
    """Which point comes next, and what becomes of those that ended."""

    ranking: Ranking

    def next(self) -> Trial | None:
        """Return the next point, `None` if there is none."""

    def ended(self, result: TrialResult) -> None:
        """Take notice of how a point ended."""

    def should_prune(self, point: Trial) -> bool:
        """Return whether a running point is so much worse than others were that it should stop."""

    def waiting(self) -> int:
        """Return how many points are still to come."""

    def earlier(self) -> list[TrialOutcome]:
        """Return the points that earlier commands brought to their end, and that will not come again."""


@dataclass
class GridScheduler:
    """All points there are, in their order."""

    points: list[Trial]
    ranking: Ranking

    def next(self) -> Trial | None:
        """Return the next point."""
        return self.points.pop(0) if self.points else None

    def ended(self, result: TrialResult) -> None:
        """Do nothing: the points do not depend on each other."""

    def should_prune(self, point: Trial) -> bool:
        """Return False: each value of a grid is there because somebody wants to know."""
        return False

    def waiting(self) -> int:
        """Return how many points are still to come."""
        return len(self.points)

    def earlier(self) -> list[TrialOutcome]:
        """Return nothing: all points come, also those that are finished."""
        return []


@dataclass
class Progress:
    """What came out so far: said at once, and written after every point."""

    plan: TrialScheduler
    command: str
    results: dict[Path, TrialResult] = field(default_factory=dict)

    def note(self, ended: TrialOutcome) -> TrialResult:
        """Take in a point that ended."""
        metric, value = self.plan.ranking.value_of(ended.point.run) if ended.state == "finished" else ("", None)
        result = self.results[ended.point.run] = TrialResult(ended.point, ended.state, ended.reason, metric, value)
        return result

    def add(self, ended: TrialOutcome, word: str = "") -> TrialResult:
        """Take in a point that ended just now, say so, and bring the files up to date."""
        result = self.note(ended)
        say(f"point {result.point.run.name}: {word}{result.said()}", style="bold red" if result.is_failure else "")
        for folder in {result.point.run.parent for result in self.results.values()}:
            write_ranked(folder, self.ranked(), self.command, self.plan.waiting())
        return result

    def ranked(self) -> list[TrialResult]:
        """Return the points, best first."""
        return self.plan.ranking.ranked(list(self.results.values()))


def sweep(arguments: Arguments) -> int:
    """Check every point, run those that are not finished, and rank all; returns 1 if any failed, else 0.

    Raises:
        CheckFailed: a point has a mistake; nothing was started.
        Interrupted: somebody stopped the sweep, and with it the points that were running.
    """
    axes = read_search_space(arguments)
    candidates = axes.corners() if axes.is_search else axes.grid()
    survey = Planner(arguments)
    configs = survey.check(candidates)
    signals.raise_from_now_on()
    cfg = configs[0]
    settings: SweepSettings = build(cfg.sweep, "sweep")
    if axes.is_search and (problems := check_search(cfg, settings)):
        raise CheckFailed(problems)
    points = survey.points(candidates, configs, settings)
    if cfg.check:
        _say_fine(len(points))
        return 0
    crew = _crew(cfg, configs, settings, survey, arguments, is_search=axes.is_search)
    if isinstance(crew, SlurmExecutor) and (cfg.dry_run or not crew.settings.wait):
        return _hand_over(points[:1] if axes.is_search else points, crew, only_show=cfg.dry_run)
    with searching(axes, survey, cfg, settings, points[0]) if axes.is_search else _grid(points, settings) as plan:
        return _run(plan, crew, arguments.command(arguments.overrides))


def _crew(
    cfg: DictConfig,
    configs: list[DictConfig],
    settings: SweepSettings,
    survey: Planner,
    arguments: Arguments,
    *,
    is_search: bool,
) -> LocalExecutor | SlurmExecutor:
    cluster = settings_of(cfg)
    if cluster is None:
        for note in slot_notes(settings):
            say(note)
        return LocalExecutor(slots(settings, configs), arguments)
    if is_search and not cluster.wait and not cfg.dry_run:
        what = "a search draws each point from what others found, so its shell has to wait for them."
        raise CheckFailed([Problem("hydra.launcher.wait", what, "Use finetune train -m hydra/launcher=slurm ...")])
    return SlurmExecutor(cluster, survey, arguments, settings.parallel, settings.parallel if is_search else None)


def _hand_over(points: list[Trial], crew: SlurmExecutor, *, only_show: bool) -> int:
    """Submit all points that are not finished, and go; or show what would be submitted."""
    waiting = [point for point in points if not is_finished(point.run)]
    for point in waiting:
        crew.start(point)
    if only_show:
        for text in crew.scripts():
            say(text)
        return 0
    crew.submit()
    done = len(points) - len(waiting)
    say(f"{f'{done} points are finished already. ' if done else ''}`finetune runs` shows how the others stand.")
    return 0


@contextmanager
def _grid(points: list[Trial], settings: SweepSettings) -> Iterator[TrialScheduler]:
    yield GridScheduler(points, Ranking(settings.metric, settings.direction))


def _say_fine(count: int) -> None:
    fine = "The one point is fine" if count == 1 else f"All {count:,} points are fine"
    say(f"{fine}; nothing was started.", style="bold green")


def _run(plan: TrialScheduler, crew: LocalExecutor | SlurmExecutor, again: str) -> int:
    board = Progress(plan, again)
    for ended in plan.earlier():
        board.note(ended)
    with _passed_on():
        try:
            _work(plan, crew, board)
        except KeyboardInterrupt as stop:
            for ended in crew.stop(getattr(stop, "number", signal.SIGINT)):
                plan.ended(board.add(ended))
            finished = sum(result.state == "finished" for result in board.results.values())
            raise crew.stopped(finished, again) from None
        except BaseException:
            crew.stop(signal.SIGTERM)  # or its processes would stay
            raise
    say_ranked(board.ranked())
    return int(any(result.is_failure for result in board.results.values()))


def _work(plan: TrialScheduler, crew: LocalExecutor | SlurmExecutor, board: Progress) -> None:
    while True:
        while crew.has_room() and (point := plan.next()) is not None:
            if is_finished(point.run):
                plan.ended(board.add(TrialOutcome(point, "finished", ""), "finished already, "))
            else:
                goes_on = " (goes on)" if point.run.exists() else ""
                say(f"\npoint {point.run.name}: {' '.join(point.mine)}{goes_on}", style="bold")
                crew.start(point)
        if crew.is_idle():
            return
        for ended in crew.wait():
            plan.ended(board.add(ended))
        for point in crew.points():
            if plan.should_prune(point):
                crew.prune(point)


class _Terminated(KeyboardInterrupt):
    """The user or the system stops the sweep; `number` is the signal that its points get."""

    def __init__(self, number: int) -> None:
        super().__init__(signals.called(number))
        self.number = number


@contextmanager
def _passed_on() -> Iterator[None]:
    """SIGTERM and a closed terminal stop the points too: they are in sessions of their own, and would continue.

    SIGQUIT, which ends the sweep at once, ends them at once.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        if not signals.is_repeat(number):
            raise _Terminated(signal.SIGTERM)

    def quit_now(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated(signal.SIGKILL)

    with signals.Listening(signals.STOPS, stop), signals.Listening([signal.SIGQUIT], quit_now):
        yield
