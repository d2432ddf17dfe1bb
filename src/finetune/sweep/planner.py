"""Checks all trials of a sweep before any of them starts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.command_line import Arguments, run_overrides
from finetune.config.compose import compose
from finetune.console import Bar
from finetune.errors import CheckFailed, Problem
from finetune.executors.base import RunRequest
from finetune.executors.from_config import processes_of
from finetune.runner.run_setup import make_run, resolved
from finetune.runs.directory import RunDirectory
from finetune.sweep.search_space import Candidate
from finetune.sweep.trials import Trial, check_directory, directory_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset

_FEW_TRIALS = 20  # are checked so quickly that no progress is shown


@dataclass
class Planner:
    """Checks each trial as its run would, and decides where it is; data that several trials share is read once."""

    arguments: Arguments
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _configs: dict[Path, DictConfig] = field(default_factory=dict)

    def check(self, candidates: Sequence[Candidate]) -> list[DictConfig]:
        """Return the configs of candidates.

        Raises:
            CheckFailed: with everything that is wrong with any of them, except for their data.
        """
        from finetune.preflight.check import check_quickly
        from finetune.preflight.models import offline_problems

        configs: list[DictConfig] = []
        problems: list[Problem] = []
        with Bar("checking", len(candidates), "trials") as bar:
            for number, (overrides, _) in enumerate(candidates, start=1):
                cfg, found = check_quickly(self.arguments, overrides)
                problems += found
                if cfg is not None and not found:
                    problems += offline_problems(cfg)
                if cfg is not None:
                    configs.append(cfg)
                    problems += _check_resume(cfg)
                if len(candidates) > _FEW_TRIALS:
                    bar.update(number)
        if problems:
            raise CheckFailed(dict.fromkeys(problems))
        return configs

    def trials(
        self, candidates: Sequence[Candidate], configs: Sequence[DictConfig], problems: Sequence[Problem]
    ) -> list[Trial]:
        """Return the trials, each once, after a check of their data and their run directories.

        Raises:
            CheckFailed: with everything that is wrong, and the `problems` found before; if data cannot be read, with
                that alone.
        """
        from finetune.preflight.check import check_fit

        trials: dict[str, Trial] = {}
        problems = list(problems)
        for (overrides, own_overrides), cfg in zip(candidates, configs, strict=True):
            dataset = self._dataset(cfg)
            problems += check_fit(cfg, dataset)
            trial = self._trial(overrides, own_overrides, cfg)
            if trial.run not in [other.run for other in trials.values()]:
                problems += check_directory(cfg, trial.run, dataset)
            trials[json.dumps([str(trial.run), resolved(cfg)], default=str)] = trial
        problems += _check_names([trial.run.name for trial in trials.values()])
        if problems:
            raise CheckFailed(dict.fromkeys(problems))
        return list(trials.values())

    def trial(self, overrides: list[str], own_overrides: list[str]) -> Trial:
        """Return a trial of which only neighbors were checked; a mistake of its own is reported by its run."""
        cfg = compose(overrides, self.arguments.config_dir, self.arguments.config_name)
        return self._trial(overrides, own_overrides, cfg)

    def config(self, request: RunRequest) -> DictConfig:
        """Return the config of a trial that this planner returned."""
        return self._configs[request.path]

    def claim(self, request: RunRequest) -> tuple[RunDirectory, bool]:
        """Return the run directory of a trial, created if it does not exist, and whether it existed.

        Raises:
            FinetuneError: it cannot be created.
        """
        path = request.path
        if path.exists():
            return RunDirectory(path), True
        cfg = self.config(request)
        overrides = list(request.overrides)
        return make_run(cfg, path.parent, path.name, overrides, self._dataset(cfg), self.arguments), False

    def _trial(self, overrides: list[str], own_overrides: list[str], cfg: DictConfig) -> Trial:
        path = directory_of(cfg, own_overrides, self._dataset(cfg).fingerprint)
        self._configs[path] = cfg
        return Trial(run_overrides(overrides), own_overrides, path, processes_of(cfg))

    def _dataset(self, cfg: DictConfig) -> Dataset:
        from finetune.data.load import load
        from finetune.data.settings import data_settings

        key = json.dumps([resolved(cfg)["data"], cfg.seed], sort_keys=True, default=str)
        if key not in self._datasets:
            self._datasets[key] = load(data_settings(cfg), cfg.seed)
        return self._datasets[key]


def _check_resume(cfg: DictConfig) -> list[Problem]:
    if cfg.resume in ("auto", "never"):
        return []
    what = "a sweep consists of several runs, and this names one of them."
    return [Problem("resume", what, "Leave it out: the same command again resumes the trials that are not finished.")]


def _check_names(names: list[str]) -> list[Problem]:
    count = max(Counter(names).values())
    if count == 1:
        return []
    how_many = "all" if count == len(names) else str(count)
    return [Problem("name", f"{how_many} trials would have the same name.", "Leave it out, or vary it too.")]
