"""What a run found, as plain data (report.json), from which `finetune.report` makes all that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.evaluation.bootstrap import Change
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.result import Result

Facts = Mapping[str, Any]


def report_data(
    *,
    run: str,
    model_path: str,
    evaluations: Mapping[str, Comparison | Result],
    data: Facts,
    notes: Sequence[str],
    cost: Facts,
    again: Facts,
    use: str = "",
) -> dict[str, Any]:
    """Everything the report says, as dicts, lists, numbers and strings.

    `evaluations` maps an evaluator's name to its comparison, or to a single result where there was only one
    measurement; it may be empty. `data`, `cost` and `again` are shown as tables of name and value; in `again`,
    `command` is shown as code and a value may be a mapping (versions). `use` is how to use the model, in Python, where
    sentence-transformers does not.
    """
    return {
        "run": run,
        "model_path": model_path,
        "evaluations": {name: _evaluation(result) for name, result in evaluations.items()},
        "data": dict(data),
        "notes": list(notes),
        "cost": dict(cost),
        "again": dict(again),
        "use": use,
    }


def format_counts(counts: Mapping[str, int]) -> str:
    """What was evaluated on, as in `1,500 queries, 6,000 documents`."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _evaluation(result: Comparison | Result) -> dict[str, Any]:
    if isinstance(result, Result):
        metrics = [{"metric": metric, "value": mean} for metric, mean in result.means.items()]
        headline = f"{result.headline} {result.means[result.headline]:.3f}, measured once: nothing to compare it with"
        return _described(result, headline) | {"metrics": metrics}
    changes = [{"metric": row.metric} | change_data(row.change) for row in result.rows]
    return _described(result.after, result.verdict) | {"metrics": changes}


def _described(result: Result, headline: str) -> dict[str, Any]:
    return {
        "judgments": result.name,
        "headline": headline,
        "metric": result.headline,
        "counts": result.counts,
        "baselines": {name: dict(means) for name, means in result.baselines.items()},
        "notes": result.notes,
        "seconds": result.seconds,
    }


def change_data(change: Change) -> dict[str, Any]:
    """A change as plain data."""
    return {
        "before": change.mean_before,
        "after": change.mean_after,
        "change": change.change,
        "low": _number(change.low),
        "high": _number(change.high),
        "certain": change.certain,
        "won": change.won,
        "lost": change.lost,
        "tied": change.tied,
        "more_queries": change.more_queries(),
        "visible": change.visible,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
