"""The settings of a sweep: how its trials are run and ranked, and how Optuna draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from finetune.config.types import NotEmptyText, PositiveInt


@dataclass(frozen=True)
class SweepSettings:
    """How the trials of a sweep are run and ranked; `conf/sweep/default.yaml` explains each field."""

    metric: NotEmptyText | None
    direction: Literal["auto", "maximize", "minimize"]
    parallel: PositiveInt
    share_gpus: bool
    prune_by: NotEmptyText | None


@dataclass(frozen=True)
class SearchSettings:
    """How Optuna draws the trials; `conf/hydra/sweeper/optuna.yaml` explains each field."""

    n_trials: PositiveInt
    direction: Literal["auto", "maximize", "minimize"]
    study_name: NotEmptyText | None
    params: dict[str, Any]
    sampler: Any
    pruner: Any
