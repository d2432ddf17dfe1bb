"""Classes that were renamed since earlier versions, whose names are in older configs and run directories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Former names of modules.
MOVED = {
    "finetune.losses.scored": "finetune.losses.pairwise_scores",
    "finetune.evaluation.labels": "finetune.evaluation.classification",
    "finetune.training.engine": "finetune.encoding.engine",
    "finetune.launch.sweep_settings": "finetune.sweep.settings",
    "finetune.launch.slurm.settings": "finetune.preflight.slurm",
}
_FORMER = {new: old for old, new in MOVED.items()}


def current_target(target: Any) -> Any:
    """Return the present name of a class that a config of an earlier version names; other values unchanged."""
    return _renamed(target, MOVED)


def former_targets(value: Any) -> Any:
    """Return a config in which each `_target_` has its former name, so that a digest of it does not change."""
    if isinstance(value, Mapping):
        former = {key: former_targets(inner) for key, inner in value.items()}
        if "_target_" in former:
            former["_target_"] = _renamed(former["_target_"], _FORMER)
        return former
    if isinstance(value, list):
        return [former_targets(inner) for inner in value]
    return value


def _renamed(target: Any, names: Mapping[str, str]) -> Any:
    module, _, name = str(target).rpartition(".")
    if module not in names:
        return target
    return f"{names[module]}.{name}"
