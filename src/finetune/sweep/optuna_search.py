"""Searches: Optuna draws each trial based on the results of those before it.

Not hydra-optuna-sweeper: it needs an Optuna older than 3 and runs all trials in its own process. The names in the
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
from finetune.executors.base import RunOutcome
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
_MAX_DRAWS = 20  # of trials that are running already, before one of those has to end first


@dataclass
class OptunaScheduler:
    """The trials of a study, drawn one by one, with runs in `folder`; the study gets the result of each.

    `left` trials are still to be drawn. `evaluations` are the names of the evaluators that a trial is pruned by.
    """

    folder: Path
    space: SearchSpace
    planner: Planner
    study: Study
    ranking: Ranking
    prune_by: str | None
    left: int
    evaluations: Sequence[str]
    _running: dict[Path, OptunaTrial] = field(default_factory=dict)
    _bytes_read: dict[Path, int] = field(default_factory=dict)  # of the metrics of each run
    _prune_key: str = ""
    _ended_runs: set[str] = field(default_factory=set)

    def next(self) -> Trial | None:
        """Draw a trial that is not running; `None` if there are enough, or no others."""
        from optuna.trial import TrialState

        if self.left <= 0 or self._is_exhausted():
            return None
        distributions = {axis.key: _distribution(axis) for axis in self.space.axes if axis.varies}
        for _ in range(_MAX_DRAWS):
            drawn = self.study.ask(distributions)
            trial = self.planner.trial(*self.space.candidate(self._overrides(drawn)))
            if trial.run not in self._running:
                self.left -= 1
                self._running[trial.run] = drawn
                self._bytes_read[trial.run] = 0
                drawn.set_user_attr("run", trial.run.name)
                return trial
            self.study.tell(drawn, state=TrialState.FAIL)
        return None

    def record(self, result: TrialResult) -> None:
        """Report a trial that ended to the study; one that was interrupted is drawn again by the same command."""
        from optuna.trial import TrialState

        drawn = self._running.pop(result.trial.run)
        self._ended_runs.add(result.trial.run.name)
        if result.state == "finished" and result.value is not None:
            self.study.tell(drawn, result.value * self._sign(result.metric, is_metric=True))
        elif result.reason == PRUNED:
            self.study.tell(drawn, state=TrialState.PRUNED)
        elif result.state != "interrupted":
            self.study.tell(drawn, state=TrialState.FAIL)

    def should_prune(self, trial: Trial) -> bool:
        """Report the trial's new metrics to the study, and return whether it should stop."""
        if self.prune_by is None or not trial.run.exists():
            return False
        drawn = self._running[trial.run]
        records, self._bytes_read[trial.run] = RunDirectory(trial.run).read_metrics_from(self._bytes_read[trial.run])
        if not self._prune_key:
            self._prune_key = self._find_prune_key(records)  # the same for all trials
        key = self._prune_key
        rows = [row for row in records if row.get(key) is not None]
        for row in rows:
            drawn.report(row[key] * self._sign(key, is_metric=self.prune_by == "auto"), row.get("step") or 0)
        return bool(rows) and drawn.should_prune()

    def waiting(self) -> int:
        """Return how many trials are still to be drawn."""
        return 0 if self._is_exhausted() else self.left

    def earlier(self) -> list[tuple[Trial, RunOutcome]]:
        """Return the trials that finished or were pruned in earlier commands."""
        from optuna.trial import TrialState

        found = []
        for drawn in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            path = self.folder / _run_of(drawn)
            _, own_overrides = self.space.candidate(self._overrides(drawn))
            outcome = RunOutcome(path, "finished", "")
            if drawn.state == TrialState.PRUNED:
                outcome = RunOutcome(path, "interrupted", PRUNED)
            found.append((Trial([], own_overrides, path), outcome))
        return found

    def resume_study(self) -> None:
        """Enqueue what earlier commands did not finish, and what failed in them, to be drawn first.

        Raises:
            RunError: one of these is still running, because only the sweep was killed.
        """
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        known = {_run_of(trial) for trial in trials if trial.state == TrialState.WAITING} | set(map(_run_of, done))
        unfinished: dict[str, dict[str, Any]] = {}
        for trial in trials:
            if trial.state in (TrialState.RUNNING, TrialState.FAIL) and _run_of(trial) not in ("", *known):
                unfinished[_run_of(trial)] = trial.params
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
        for run, params in unfinished.items():
            self._check_not_running(self.folder / run)
            self.study.enqueue_trial(params, user_attrs={"run": run})
        self._ended_runs = set(map(_run_of, done))
        self.left -= len(done)
        if done:
            say(f"The search resumes: {len(self._ended_runs)} of its trials are done, {max(0, self.left)} remain.")

    def _check_not_running(self, path: Path) -> None:
        # A cluster's job that is still running is found again when its trial is drawn.
        if path.is_dir() and not read_run(path).has_active_job:
            with RunDirectory(path).lock():
                pass

    def _overrides(self, drawn: OptunaTrial | FrozenTrial) -> list[str]:
        """Return the override of each axis."""
        overrides = []
        for axis in self.space.axes:
            if axis.varies:
                overrides.append(axis.override(drawn.params[axis.key]))
            else:
                overrides.append(axis.overrides[0])
        return overrides

    def _is_exhausted(self) -> bool:
        """Return whether every trial of a finite space has been drawn."""
        size = self.space.size()
        return size is not None and len(self._ended_runs | {run.name for run in self._running}) >= size

    def _find_prune_key(self, records: list[dict[str, Any]]) -> str:
        """Return the name of the metric to prune by, as in metrics.jsonl; empty if it has not been measured yet."""
        if self.prune_by != "auto":
            return self.prune_by or ""
        # As evaluated during training, EVALUATION/METRIC, the headline first; not `retrieval/before/nDCG@10`.
        for record in records:
            for key in record:
                evaluation, _, metric = key.rpartition("/")
                if evaluation in self.evaluations and self.ranking.metric in (None, key, metric):
                    return key
        return ""

    def _sign(self, name: str, *, is_metric: bool) -> int:
        """Return 1 if a good value of that name is good in the study's direction too, else -1.

        The headline of the first evaluation is only known when there is one; the study has a direction before that.
        """
        maximizes = more_is_better(name)
        if is_metric:
            maximizes = self.ranking.maximizes(name)
        return 1 if maximizes == self.ranking.maximizes() else -1


def _run_of(trial: FrozenTrial) -> str:
    """Return the name of the run of a trial; empty if it was drawn while the same trial was running."""
    return str(trial.user_attrs.get("run", ""))


def check_search(cfg: DictConfig, settings: SweepSettings) -> list[Problem]:
    """Check that there is a metric to rank by, which a search needs."""
    if cfg.evaluation or settings.metric is not None:
        return []
    advice = "Leave out evaluation=none, or set sweep.metric=loss."
    return [Problem("sweep.metric", "a search needs a metric, and nothing is evaluated.", advice)]


@contextmanager
def searching(
    space: SearchSpace, planner: Planner, cfg: DictConfig, settings: SweepSettings, first: Trial
) -> Iterator[OptunaScheduler]:
    """Open the study in the experiment's folder, which is locked for other processes inside the `with`.

    `first` is any trial that the same search always has.

    Raises:
        RunError: another process uses the study.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    # A run that resumes reports again what was reported of it before.
    warnings.filterwarnings("ignore", message="The reported value is ignored")
    folder = first.run.parent
    folder.mkdir(parents=True, exist_ok=True)
    node: Any = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    ranking = Ranking(settings.metric, node["direction"])
    # Another search is another study: values of another metric or of other data would mislead this one.
    varied = [str(axis) for axis in space.axes if axis.varies]
    study_name = node["study_name"] or digest_of([first.run.name, varied, str(ranking)])
    with hold_lock(folder / "optuna.lock", f"the search in {folder}"):
        study = optuna.create_study(
            storage=_storage(folder / _FILE),
            study_name=study_name,
            direction="maximize" if ranking.maximizes() else "minimize",
            load_if_exists=True,
        )
        search_settings = _build_settings(node, len(study.trials))
        study.sampler, study.pruner = search_settings.sampler, search_settings.pruner
        judging = [name for name, evaluator in evaluators_of(cfg).items() if not report_only(evaluator)]
        scheduler = OptunaScheduler(
            folder, space, planner, study, ranking, settings.prune_by, search_settings.n_trials, judging
        )
        scheduler.resume_study()
        yield scheduler


def _storage(file: Path) -> Any:
    from optuna.storages import RDBStorage

    # The path is not a part of the URL, where a question mark would have a meaning.
    return RDBStorage("sqlite:///optuna.db", engine_kwargs={"creator": lambda: sqlite3.connect(file, timeout=60)})


def _build_settings(node: dict[str, Any], drawn: int) -> SearchSettings:
    """Return the settings of a search of which `drawn` trials were drawn before."""
    sampler = node["sampler"]
    # A process that resumes would draw the first random numbers again; QMC counts in the study itself.
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
