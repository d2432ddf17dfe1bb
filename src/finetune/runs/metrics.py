"""Metrics of a run by name: those logged in metrics.jsonl, and those of the evaluations in report.json."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError
from finetune.runs.atomic import read_mapping

_UNTOUCHED = "/before/"  # metrics of the model before training are not results of the run

# Metrics for which lower is better; for all others (accuracy, recall, correlation) higher is better. A leading minus,
# as in -alignment, means that the sign is flipped already. PoemSentiment contains no MSE.
_LOWER_IS_BETTER = re.compile(
    r"^(?!(.*/)?-).*(loss|error|(?<![a-z])([rn]?mse|mae|distance)|divergence|perplexity|uniformity|alignment|rank\b"
    r"|seconds)",
    re.I,
)


@dataclass(frozen=True)
class ReportedMetric:
    """One metric of one evaluation after training; `change` is relative to before, None where that was not measured."""

    evaluation: str
    metric: str
    after: float
    change: float | None


def reported_metrics(report_path: Path) -> list[ReportedMetric]:
    """Return the metrics of all evaluations of a report.json, each evaluation's headline metric first.

    Empty if the report is missing or damaged.
    """
    try:
        evaluations = read_mapping(report_path).get("evaluations", {})
        return [metric for name, part in evaluations.items() for metric in _metrics_of(name, part)]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def headline(report_path: Path) -> ReportedMetric | None:
    """Return the metric that the run is judged by: the headline metric of its first evaluation."""
    for metric in reported_metrics(report_path):
        return metric
    return None


def more_is_better(metric: str) -> bool:
    """Whether higher values of a metric are better, by its name: not so for losses, errors and distances."""
    return _LOWER_IS_BETTER.search(metric) is None


def _metrics_of(evaluation: str, part: Mapping[str, Any]) -> Iterator[ReportedMetric]:
    rows = part["metrics"]
    headline_metric = part.get("metric", rows[0]["metric"])
    for row in sorted(rows, key=lambda row: row["metric"] != headline_metric):
        after = row["after"] if "after" in row else row["value"]
        if isinstance(after, int | float):  # null where it was not finite
            yield ReportedMetric(evaluation, str(row["metric"]), float(after), row.get("change"))


def numbers(record: Any) -> dict[str, float]:
    """Return the finite numbers of one record of metrics.jsonl by name, without its step."""
    if not isinstance(record, Mapping):
        return {}
    return {key: value for key, value in record.items() if key != "step" and _is_finite_number(value)}


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def last_values(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last value of every metric, in the order in which the metrics first appeared."""
    values: dict[str, float] = {}
    for record in records:
        values |= numbers(record)
    return values


def curve(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return the points (step, value) of a metric, ordered by step."""
    points = []
    for record in records:
        values = numbers(record)
        if name in values:
            points.append((record.get("step") or 0, values[name]))
    return sorted(points, key=lambda point: point[0])


def resolve_metric_name(name: str, names: Iterable[str], run: str) -> str:
    """Return the metric of `run` that `name` is, or abbreviates.

    Raises:
        FinetuneError: no metric has this name, or several do.
    """
    names = list(names)
    if name in names:
        return name
    longer = [each for each in names if is_short_for(name, each)]
    if len(longer) == 1:
        return longer[0]
    if longer:
        raise FinetuneError(f"'{name}' is ambiguous among the metrics of {run}.", f"Give one: {', '.join(longer)}.")
    advice = did_you_mean(name, names)
    if not advice:
        advice = f"There are: {', '.join(names)}." if names else "It has logged none yet."
    raise FinetuneError(f"{run} has no metric '{name}'.", advice)


def is_short_for(name: str, full_name: str) -> bool:
    """Whether `name` is the part of a metric's full name after a slash; not so for metrics before training."""
    return full_name.endswith(f"/{name}") and _UNTOUCHED not in full_name
