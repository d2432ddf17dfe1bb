"""Several runs side by side as plain data: where their configs, data and environments differ, and their metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.config.differences import ABSENT, as_yaml, differences
from finetune.runs.atomic import read_mapping
from finetune.runs.metrics import last_values
from finetune.runs.record import Record

# Keys of environment.json that describe how a run was started, not what it ran on.
_NOT_COMPARED = ("command", "again")


def compare_runs(records: Sequence[Record]) -> dict[str, Any]:
    """Return names, states, and rows of values in the order of the runs: config, data, environment, metrics.

    None means a metric that a run does not have, and for every value of a file that cannot be read, see `notes`.
    """
    metrics = [last_values(record.run.read_metrics()) for record in records]
    unreadable = [record.name for record in records if record.config is None]
    return {
        "runs": [record.name for record in records],
        "states": [record.state for record in records],
        "config": _differing_rows([record.config or {} for record in records]),
        "data": _differing_rows([read_mapping(record.run.data_path) for record in records]),
        "environment": _differing_rows([_environment(record) for record in records]),
        "metrics": {name: [each.get(name) for each in metrics] for name in _ordered_names(metrics)},
        "notes": [f"{name}: config.yaml cannot be read, so its config is not compared." for name in unreadable],
    }


def compare_reports(records: Sequence[Record]) -> dict[str, Any]:
    """Return `compare_runs`, with the `findings`: the metrics of each evaluation by run; and with `warnings`."""
    reports = [read_mapping(record.run.report_data_path) for record in records]
    evaluations: dict[str, dict[str, list[Any]]] = {}
    for place, report in enumerate(reports):
        for name, part in (report.get("evaluations") or {}).items():
            for row in part.get("metrics", ()):
                by_metric = evaluations.setdefault(name, {})
                by_metric.setdefault(row["metric"], [None] * len(records))[place] = row
    return compare_runs(records) | {"findings": evaluations, "warnings": list(_warnings(records, reports))}


def _warnings(records: Sequence[Record], reports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for record, report in zip(records, reports, strict=True):
        if not report:
            yield f"{record.name} has no report yet: it is {record.state}."
    data = [read_mapping(record.run.data_path) for record in records]
    if any(each != data[0] for each in data[1:]):
        yield "The runs use different data: their metrics may not be of the same queries."


def _differing_rows(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys in which the non-empty trees differ, with a value for each tree, None for the empty ones."""
    present = [place for place, tree in enumerate(trees) if tree]
    if len(present) < 2:
        return {}
    rows: dict[str, list[Any]] = {}
    for key, values in differences([trees[place] for place in present]):
        row: list[Any] = [None] * len(trees)
        for place, value in zip(present, values, strict=True):
            # Not None, which would be a value that was set.
            row[place] = as_yaml(value) if value is ABSENT else value
        rows[key] = row
    return rows


def _ordered_names(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """Return all names: metrics of evaluations, then of the training, then timings."""
    names = dict.fromkeys(name for each in metrics for name in each)
    return sorted(names, key=lambda name: (name.startswith("seconds/"), "/" not in name))


def _environment(record: Record) -> dict[str, Any]:
    facts = read_mapping(record.run.environment_path)
    return {key: value for key, value in facts.items() if key not in _NOT_COMPARED}
