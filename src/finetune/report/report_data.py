"""Results of evaluations as plain data: for report.json, and for `finetune evaluate --json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.evaluation.bootstrap import Change
from finetune.evaluation.comparison import Comparison, compare
from finetune.evaluation.metric_names import format_value
from finetune.evaluation.result import Result

Facts = Mapping[str, Any]

FORGETTING = "Judgments of a general data set, not used for training: a metric that drops here shows forgetting."


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
    """Return the core of report.json, as dicts, lists, numbers and strings.

    `evaluations` maps the name of an evaluator to its comparison, or to a single result if it measured only once; it
    may be empty. `data`, `cost` and `again` are shown as tables of name and value; in `again`, `command` is shown as
    code, and a value may be a mapping (versions). `use` is Python code that uses the model, if it differs from that of
    sentence-transformers.
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


def forgetting_data(comparison: Comparison) -> dict[str, Any]:
    """Return the `forgetting` of report.json: the comparison of an evaluator that is report-only."""
    return {
        "name": comparison.after.name,
        "what": FORGETTING,
        "verdict": comparison.verdict,
        "counts": comparison.after.counts,
        "metrics": {row.metric: change_data(row.change) for row in comparison.rows},
    }


def models_data(results: Mapping[str, Result]) -> dict[str, Any]:
    """Return the results of one evaluator for several models: their means, and the changes against the first model."""
    models = list(results)
    first = results[models[0]]
    changes = {}
    for model in models[1:]:
        rows = compare(first, results[model]).rows
        changes[model] = {row.metric: change_data(row.change) for row in rows}
    return {
        "data": first.name,
        "metric": first.headline,
        "counts": first.counts,
        "notes": first.notes,
        "baselines": {name: dict(means) for name, means in first.baselines.items()},
        "models": {model: result.means for model, result in results.items()},
        "seconds": {model: round(result.seconds, 3) for model, result in results.items()},
        "against the first": changes,
    }


def format_counts(counts: Mapping[str, int]) -> str:
    """Return the size of an evaluation, as in `1,500 queries, 6,000 documents`; counts of 0 are left out."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _evaluation(result: Comparison | Result) -> dict[str, Any]:
    if isinstance(result, Result):
        metrics = [{"metric": metric, "value": mean} for metric, mean in result.means.items()]
        value = format_value(result.means[result.headline])
        headline = f"{result.headline} {value}, measured once: there is nothing to compare with"
        return _description(result, headline) | {"metrics": metrics}
    changes = [{"metric": row.metric} | change_data(row.change) for row in result.rows]
    return _description(result.after, result.verdict) | {"metrics": changes}


def _description(result: Result, headline: str) -> dict[str, Any]:
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
    """Return a change as plain data."""
    return {
        "before": change.mean_before,
        "after": change.mean_after,
        "change": change.change,
        "low": _or_none(change.low),
        "high": _or_none(change.high),
        "certain": change.certain,
        "won": change.won,
        "lost": change.lost,
        "tied": change.tied,
        "more_queries": change.more_queries(),
        "visible": change.visible,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
