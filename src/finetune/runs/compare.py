"""Runs side by side: where they differ, and what each found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.config.differences import ABSENT, as_yaml, differences
from finetune.runs.atomic import read_mapping
from finetune.runs.metrics import last_values
from finetune.runs.record import Record

# Of environment.json what says how a run was started is no difference between machines.
_NOT_COMPARED = ("command", "again")


def side_by_side(records: Sequence[Record]) -> dict[str, Any]:
    """Names, states, and rows of values in the order of the runs: config, data, environment, metrics.

    None stands for a metric that a run does not have, and for all that cannot be read of it, see `notes`.
    """
    metrics = [last_values(record.run.read_metrics()) for record in records]
    return {
        "runs": [record.name for record in records],
        "states": [record.state for record in records],
        "config": _rows([record.config or {} for record in records]),
        "data": _rows([read_mapping(record.run.data_path) for record in records]),
        "environment": _rows([_environment(record) for record in records]),
        "metrics": {name: [each.get(name) for each in metrics] for name in _names(metrics)},
        "notes": [
            f"{record.name}: config.yaml cannot be read, so nothing is compared with it."
            for record in records
            if record.config is None
        ],
    }


def _rows(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    there = [tree for tree in trees if tree]
    if len(there) < 2:
        return {}
    # What a damaged run lacks altogether is no difference of each key.
    found = {key: iter(values) for key, values in differences(there)}
    return {key: [_or_not_there(next(values)) if tree else None for tree in trees] for key, values in found.items()}


def _or_not_there(value: Any) -> Any:
    # null would be a value that was set.
    return as_yaml(value) if value is ABSENT else value


def _names(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """Those of evaluations first, then of the training, where the time went last."""
    names = dict.fromkeys(name for each in metrics for name in each)
    return sorted(names, key=lambda name: (name.startswith("seconds/"), "/" not in name))


def _environment(record: Record) -> dict[str, Any]:
    facts = read_mapping(record.run.environment_path)
    return {key: value for key, value in facts.items() if key not in _NOT_COMPARED}
