"""What a run found, by the evaluations of its report.json, and which way of a metric is the better one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.runs.atomic import read_mapping
from finetune.runs.directory import RunDirectory

# Less is better; of everything else (accuracies, recalls, correlations) more is. A name that begins with a minus, as
# in -alignment, is turned round already. PoemSentiment is no MSE.
_SMALL = re.compile(
    r"^(?!(.*/)?-).*(loss|error|(?<![a-z])([rn]?mse|mae|distance)|divergence|perplexity|uniformity|alignment|rank\b"
    r"|seconds)",
    re.I,
)


@dataclass(frozen=True)
class ReportedMetric:
    """One metric of one evaluation after training; `change` is that from before, None where that was not measured."""

    evaluation: str
    metric: str
    after: float
    change: float | None


def reported_metrics(run: RunDirectory) -> list[ReportedMetric]:
    """All that the run's evaluations found, the headline of each first; empty if there is no whole report."""
    try:
        parts = read_mapping(run.report_data_path).get("evaluations", {})
        return [found for name, part in parts.items() for found in _of(name, part)]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def headline(run: RunDirectory) -> ReportedMetric | None:
    """The metric that the run is judged by: the headline of its first evaluation."""
    return next(iter(reported_metrics(run)), None)


def more_is_better(metric: str) -> bool:
    """What the name of a metric says: losses, errors and distances are to be small, all else large."""
    return _SMALL.search(metric) is None


def _of(evaluation: str, part: Mapping[str, Any]) -> Iterator[ReportedMetric]:
    rows = part["metrics"]
    for row in sorted(rows, key=lambda row: row["metric"] != part.get("metric", rows[0]["metric"])):
        after = row["after"] if "after" in row else row["value"]
        if isinstance(after, int | float):  # null where it was no number
            yield ReportedMetric(evaluation, str(row["metric"]), float(after), row.get("change"))
