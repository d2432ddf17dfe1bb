"""What a run found, as plain data (report.json), from which `finetune.report` makes all that people read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.evaluation.bootstrap import Change
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.plain import one_line
from finetune.evaluation.result import Ints, Result
from finetune.evaluation.retrieval import RetrievalResult

Take = Callable[[np.ndarray], list[str]]
Facts = Mapping[str, Any]

EXAMPLES = 5  # of each kind
TOP = 5  # hits shown of each example
_KEPT = 300  # characters of a text in report.json


def report_data(
    *,
    run: str,
    model_path: str,
    evaluations: Mapping[str, Comparison | Result],
    take: Take,
    data: Facts,
    notes: Sequence[str],
    cost: Facts,
    again: Facts,
    use: str = "",
    takes: Mapping[str, Take] | None = None,
) -> dict[str, Any]:
    """Everything the report says, as dicts, lists, numbers and strings.

    `evaluations` maps an evaluator's name to its comparison, or to a single result where there was only one
    measurement; it may be empty. `take` gives the texts of item rows, `takes` those
    of evaluations on a source of their own. `data`, `cost` and `again` are shown as
    tables of name and value; in `again`, `command` is shown as code and a value may be a mapping (versions). `use`
    is how to use the model, in Python, where sentence-transformers does not.
    """
    return {
        "run": run,
        "model_path": model_path,
        "evaluations": {name: _evaluation(result) for name, result in evaluations.items()},
        "examples": {
            name: _examples(result, (takes or {}).get(name, take))
            for name, result in evaluations.items()
            if isinstance(result, Comparison)
        },
        "data": dict(data),
        "notes": list(notes),
        "cost": dict(cost),
        "again": dict(again),
        "use": use,
    }


def counts_in_words(counts: Mapping[str, int]) -> str:
    """What was evaluated on, as in `1,500 queries, 6,000 documents`."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _evaluation(result: Comparison | Result) -> dict[str, Any]:
    if isinstance(result, Result):
        metrics = [{"metric": metric, "value": mean} for metric, mean in result.means.items()]
        headline = f"{result.headline} {result.means[result.headline]:.3f}, measured once: nothing to compare it with"
        return _described(result, headline) | {"metrics": metrics}
    changes = [{"metric": row.metric} | change_data(row.change) for row in result.rows]
    return _described(result.after, result.verdict) | {"metrics": changes}


def _examples(result: Comparison, take: Take) -> list[dict[str, Any]]:
    before, after = result.before, result.after
    if not (isinstance(before, RetrievalResult) and isinstance(after, RetrievalResult)):
        return []
    return [_example(before, after, query, take) for query in (*result.lost(EXAMPLES), *result.gained(EXAMPLES))]


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
        "low": change.low,
        "high": change.high,
        "certain": change.certain,
        "won": change.won,
        "lost": change.lost,
        "tied": change.tied,
        "more_queries": change.more_queries(),
        "visible": change.visible,
    }


def _example(before: RetrievalResult, after: RetrievalResult, query: int, take: Take) -> dict[str, Any]:
    scores = [float(each.per_query[after.headline][query]) for each in (before, after)]
    return {
        "query": _texts(after.queries[query : query + 1], take)[0],
        "change": scores[1] - scores[0],
        "right": _texts(after.right[query, :TOP], take),
        "before": _hits(before, query, take),
        "after": _hits(after, query, take),
        "right_rank_before": _right_rank(before, query),
        "right_rank_after": _right_rank(after, query),
    }


def _right_rank(result: RetrievalResult, query: int) -> int | None:
    """Return the place of the first right hit, from 1; None where it is deeper than is kept."""
    right = np.flatnonzero(result.gains[query] > 0)
    return int(right[0]) + 1 if len(right) else None


def _hits(result: RetrievalResult, query: int, take: Take) -> list[dict[str, Any]]:
    texts = _texts(result.hits[query, :TOP], take)
    return [{"text": text, "right": bool(gain > 0)} for text, gain in zip(texts, result.gains[query], strict=False)]


def _texts(rows: Ints, take: Take) -> list[str]:
    # Rows of -1 (fewer hits than places) stand only at the end.
    return [one_line(text, _KEPT) for text in take(rows[rows >= 0])]
