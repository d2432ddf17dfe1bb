"""Searches: Optuna draws the points, from what the points before them found.

Not hydra-optuna-sweeper: it needs an Optuna older than 3, and runs all points in its own process. The names in the
config are the same.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from finetune.config.build import build
from finetune.config.evaluators import evaluators_of, report_only
from finetune.console import say
from finetune.errors import Problem
from finetune.executors.local import TrialOutcome
from finetune.runs.directory import RunDirectory
from finetune.runs.lock import hold_lock
from finetune.runs.metrics import more_is_better
from finetune.runs.record import read_run
from finetune.sweep.planner import Planner
from finetune.sweep.ranking import Ranking
from finetune.sweep.search_space import Axis, SearchSpace
from finetune.sweep.settings import SearchSettings, SweepSettings
from finetune.sweep.trials import PRUNED, Trial, TrialResult, digest_of

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

_FILE = "optuna.db"
_TRIES = 20  # draws of points that are running just now, before others have to end first


@dataclass
class OptunaScheduler:
    """The points of a study, drawn one by one into `folder`; tells the study how each ended.

    `evaluations` are the names of those that a point is judged by.
    """

    folder: Path
    axes: SearchSpace
    survey: Planner
    study: Study
    ranking: Ranking
    prune_by: str | None
    left: int
    evaluations: Sequence[str]
    _trials: dict[Path, OptunaTrial] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)  # bytes of the metrics of each
    _key: str = ""
    _seen: set[str] = field(default_factory=set)

    def next(self) -> Trial | None:
        """Draw a point that is not running; `None` if there are enough, or all that there can be."""
        from optuna.trial import TrialState

        space = {axis.key: _distribution(axis) for axis in self.axes.axes if axis.varies}
        for _ in range(_TRIES if self.left > 0 and not self._is_exhausted() else 0):
            trial = self.study.ask(space)
            point = self._point(trial)
            if point.run not in self._trials:
                self.left -= 1
                self._trials[point.run] = trial
                self._read[point.run] = 0
                trial.set_user_attr("run", point.run.name)
                return point
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def ended(self, result: TrialResult) -> None:
        """Tell the study; a point that somebody stopped is drawn again by the same command."""
        from optuna.trial import TrialState

        trial = self._trials.pop(result.point.run)
        self._seen.add(result.point.run.name)
        if result.state == "finished" and result.value is not None:
            self.study.tell(trial, result.value * self._sign(result.metric, is_metric=True))
        elif result.reason == PRUNED:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif result.state != "interrupted":
            self.study.tell(trial, state=TrialState.FAIL)

    def should_prune(self, point: Trial) -> bool:
        """Report what the point has measured since the last look, and return whether it should stop."""
        if self.prune_by is None or not point.run.exists():
            return False
        trial = self._trials[point.run]
        records, self._read[point.run] = RunDirectory(point.run).read_metrics_from(self._read[point.run])
        key = self._key = self._key or self._find_key(records)  # one for all points
        rows = [row for row in records if row.get(key) is not None]
        for row in rows:
            trial.report(row[key] * self._sign(key, is_metric=self.prune_by == "auto"), row.get("step") or 0)
        return bool(rows) and trial.should_prune()

    def waiting(self) -> int:
        """Return how many points are still to be drawn."""
        return 0 if self._is_exhausted() else self.left

    def earlier(self) -> list[TrialOutcome]:
        """Return the points that earlier commands brought to their end."""
        from optuna.trial import TrialState

        found = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            point = Trial([], self.axes.point(self._values(trial))[1], self.folder / _run_of(trial))
            is_pruned = trial.state == TrialState.PRUNED
            found.append(TrialOutcome(point, "interrupted" if is_pruned else "finished", PRUNED if is_pruned else ""))
        return found

    def resume_study(self) -> None:
        """Put what was not finished by earlier commands, and what failed in them, in front.

        Raises:
            RunError: one of these is still running, since only the sweep was killed.
        """
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        done = {_run_of(trial) for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        waiting = {_run_of(trial) for trial in trials if trial.state == TrialState.WAITING}
        missing = [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.FAIL)]
        again = {run: trial.params for trial in missing if (run := _run_of(trial)) and run not in done | waiting}
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
        for run, params in again.items():
            # A job of a cluster that is still at work is found again when its point is drawn.
            if (self.folder / run).is_dir() and not read_run(self.folder / run).has_active_job:
                with RunDirectory(self.folder / run).lock():
                    pass
            self.study.enqueue_trial(params, user_attrs={"run": run})
        self._seen = done
        self.left -= sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        if done:
            say(f"The search goes on: {len(done)} points of it are done, {max(0, self.left)} are to come.")

    def _point(self, trial: OptunaTrial) -> Trial:
        return self.survey.point(*self.axes.point(self._values(trial)))

    def _values(self, trial: OptunaTrial | FrozenTrial) -> list[str]:
        return [axis.drawn(trial.params[axis.key]) if axis.varies else axis.overrides[0] for axis in self.axes.axes]

    def _is_exhausted(self) -> bool:
        size = self.axes.size()
        return size is not None and len(self._seen | {run.name for run in self._trials}) >= size

    def _find_key(self, records: list[dict[str, Any]]) -> str:
        """The name of what a point is stopped by, in its metrics; empty if it has not measured that yet."""
        if self.prune_by != "auto":
            return self.prune_by or ""
        # As evaluated during training, EVALUATION/METRIC, the headline first; not `retrieval/before/nDCG@10`.
        during = [key for record in records for key in record if key.rpartition("/")[0] in self.evaluations]
        wanted = self.ranking.metric
        return next((key for key in during if wanted in (None, key, key.rpartition("/")[2])), "")

    def _sign(self, name: str, *, is_metric: bool) -> int:
        """1 if a value of that name is good where the study looks for good ones, else -1.

        What the first evaluation's headline is shows only when there is one, and the study has a direction by then.
        """
        maximizes = self.ranking.maximizes(name) if is_metric else more_is_better(name)
        return 1 if maximizes == self.ranking.maximizes() else -1


def _run_of(trial: FrozenTrial) -> str:
    """The run of a trial; none where it was drawn while the same point was running."""
    return str(trial.user_attrs.get("run", ""))


def check_search(cfg: DictConfig, settings: SweepSettings) -> list[Problem]:
    """Look whether there is anything to rank by, which a search cannot do without."""
    if cfg.evaluation or settings.metric is not None:
        return []
    advice = "Leave out evaluation=none, or set sweep.metric=loss."
    return [Problem("sweep.metric", "a search needs a metric, and nothing is evaluated.", advice)]


@contextmanager
def searching(
    axes: SearchSpace, survey: Planner, cfg: DictConfig, settings: SweepSettings, first: Trial
) -> Iterator[OptunaScheduler]:
    """Opens the study in the experiment's folder, which is this process's alone inside the `with`.

    `first` is any point that the same search always has. Raises RunError if another process has the study.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    # A run that goes on writes again what is known of it.
    warnings.filterwarnings("ignore", message="The reported value is ignored")
    folder = first.run.parent
    folder.mkdir(parents=True, exist_ok=True)
    node: Any = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    ranking = Ranking(settings.metric, node["direction"])
    maximizes = ranking.maximizes()
    # Another search is another study: values of another metric or of other data would mislead this one.
    name = node["study_name"] or digest_of(
        [first.run.name, [str(axis) for axis in axes.axes if axis.varies], str(ranking)]
    )
    with hold_lock(folder / "optuna.lock", f"the search in {folder}"):
        study = optuna.create_study(
            storage=_storage(folder / _FILE),
            study_name=name,
            direction="maximize" if maximizes else "minimize",
            load_if_exists=True,
        )
        search_settings = _built(node, len(study.trials))
        study.sampler, study.pruner = search_settings.sampler, search_settings.pruner
        judging = [name for name, node in evaluators_of(cfg).items() if not report_only(node)]
        search = OptunaScheduler(
            folder, axes, survey, study, ranking, settings.prune_by, search_settings.n_trials, judging
        )
        search.resume_study()
        yield search


def _storage(file: Path) -> Any:
    from optuna.storages import RDBStorage

    # The path is not part of the address, where a question mark would have a meaning.
    return RDBStorage("sqlite:///optuna.db", engine_kwargs={"creator": lambda: sqlite3.connect(file, timeout=60)})


def _built(node: dict[str, Any], drawn: int) -> SearchSettings:
    sampler = node["sampler"]
    # A process that goes on would draw the first random numbers again; QMC counts in the study itself.
    if isinstance(sampler.get("seed"), int) and not str(sampler["_target_"]).endswith("QMCSampler"):
        node = {**node, "sampler": {**sampler, "seed": sampler["seed"] + drawn}}
    settings: SearchSettings = build(node, "sweep")
    return settings


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numbers = axis.numbers
    if numbers is None:
        return CategoricalDistribution(axis.values())
    if isinstance(numbers.low, int):
        return IntDistribution(numbers.low, int(numbers.high), numbers.log, int(numbers.step or 1))
    return FloatDistribution(numbers.low, numbers.high, numbers.log, numbers.step)
