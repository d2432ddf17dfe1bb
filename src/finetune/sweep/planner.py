"""Looks at every point of a sweep before any of them starts."""

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
from finetune.executors.resources import check_slots, processes_of
from finetune.preflight.slurm import settings_of
from finetune.runner.run_setup import make_run, resolved
from finetune.runs.directory import RunDirectory
from finetune.sweep.trials import Trial, check_folder, folder_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset
    from finetune.sweep.settings import SweepSettings

_FEW_POINTS = 20  # are checked before a person wonders


@dataclass
class Planner:
    """Checks points as a run of each would, and says where it is; data that several points share is read once."""

    arguments: Arguments
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _configs: dict[Path, DictConfig] = field(default_factory=dict)

    def check(self, candidates: Sequence[tuple[list[str], list[str]]]) -> list[DictConfig]:
        """Return the configs of points, of which each is all its overrides and those of them that vary.

        Raises:
            CheckFailed: with everything that is wrong with any of them, but for their data.
        """
        from finetune.preflight.check import check_at_a_glance

        configs, problems = [], []
        with Bar("checking", len(candidates), "points") as bar:
            for overrides, _ in candidates:
                cfg, found = check_at_a_glance(self.arguments, overrides)
                configs.append(cfg)
                problems += [*found, *(_check_resume(cfg) if cfg is not None else [])]
                if len(candidates) > _FEW_POINTS:
                    bar.update(len(configs))
        if problems:
            raise CheckFailed(dict.fromkeys(problems))
        return [cfg for cfg in configs if cfg is not None]

    def points(
        self,
        candidates: Sequence[tuple[list[str], list[str]]],
        configs: Sequence[DictConfig],
        settings: SweepSettings,
    ) -> list[Trial]:
        """Return the points, each once, after a look at their data, at the devices, and at where they will be.

        Raises:
            CheckFailed: with everything that is wrong; of data that cannot be read, with that alone.
        """
        from finetune.preflight.check import check_fit

        points: dict[str, Trial] = {}
        problems = check_slots(settings, configs) if settings_of(configs[0]) is None else []
        for (overrides, mine), cfg in zip(candidates, configs, strict=True):
            dataset = self._dataset(cfg)
            problems += check_fit(cfg, dataset)
            point = self._point(overrides, mine, cfg)
            if point.run not in [other.run for other in points.values()]:
                problems += check_folder(cfg, point.run, dataset)
            points[json.dumps([str(point.run), resolved(cfg)], default=str)] = point
        problems += _same_names([point.run.name for point in points.values()])
        if problems:
            raise CheckFailed(dict.fromkeys(problems))
        return list(points.values())

    def point(self, overrides: list[str], mine: list[str]) -> Trial:
        """Return a point whose neighbours were checked; what is wrong with it alone its run will answer."""
        return self._point(overrides, mine, compose(overrides, self.arguments.config_dir, self.arguments.config_name))

    def config(self, point: Trial) -> DictConfig:
        """Return the config of a point that was looked at."""
        return self._configs[point.run]

    def claim(self, point: Trial) -> tuple[RunDirectory, bool]:
        """Return the run directory of a point that was looked at, made if it is not there, and whether it was.

        Raises:
            FinetuneError: it cannot be made.
        """
        if point.run.exists():
            return RunDirectory(point.run), True
        cfg = self.config(point)
        where, dataset = (point.run.parent, point.run.name), self._dataset(cfg)
        return make_run(cfg, *where, point.overrides, dataset, self.arguments), False

    def _point(self, overrides: list[str], mine: list[str], cfg: DictConfig) -> Trial:
        place = folder_of(cfg, mine, self._dataset(cfg).fingerprint)
        self._configs[place] = cfg
        return Trial(run_overrides(overrides), mine, place, processes_of(cfg))

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
    what = "a sweep has no one run to go on with."
    return [Problem("resume", what, "Leave it out: the same command again goes on with what is not finished.")]


def _same_names(names: list[str]) -> list[Problem]:
    count = max(Counter(names).values())
    if count == 1:
        return []
    how_many = "all" if count == len(names) else str(count)
    return [Problem("name", f"{how_many} points would have the same name.", "Leave it out, or vary it too.")]
