"""What a config says of a sweep: how its points are run and ranked, and how Optuna draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from finetune.config.types import NotEmptyText, PositiveInt

Direction = Literal["auto", "maximize", "minimize"]


@dataclass(frozen=True)
class SweepSettings:
    """How the points of a sweep are run and ranked; `conf/sweep/default.yaml` says what each of these means."""

    metric: NotEmptyText | None
    direction: Literal["auto", "maximize", "minimize"]
    parallel: PositiveInt
    share_gpus: bool
    prune_by: NotEmptyText | None


@dataclass(frozen=True)
class SearchSettings:
    """How Optuna draws the points; `conf/hydra/sweeper/optuna.yaml` says what each of these means."""

    n_trials: PositiveInt
    direction: Literal["auto", "maximize", "minimize"]
    study_name: NotEmptyText | None
    params: dict[str, Any]
    sampler: Any
    pruner: Any
