"""Example queries with their hits before and after: the largest regressions and gains, and some unchanged ones.

Q queries, S hits shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.data.arrays import Ints
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.retrieval import RetrievalResult
from finetune.report.escaping import one_line

LOST, GAINED, UNCHANGED = 25, 25, 10
SHOWN = 5  # hits of each query
_MAX_TEXT = 400  # characters of a text

Take = Callable[[Ints], list[str]]  # maps item rows to their texts


def examples(comparison: Comparison, take: Take) -> list[dict[str, Any]]:
    """Return the `examples` of one evaluation for report.json; empty if it is not a retrieval evaluation.

    `change` is that of the headline metric, or else of the first one that has a number for each query.
    `right_rank_before` and `right_rank_after` are the ranks of the first right hit, from 1, None if it is not among the
    hits. `right` are the texts of the right documents.
    """
    before, after = comparison.before, comparison.after
    if not (isinstance(before, RetrievalResult) and isinstance(after, RetrievalResult)):
        return []
    change_Q = comparison.changes
    unchanged = np.flatnonzero(change_Q == 0)
    if len(unchanged):
        evenly_spaced = np.linspace(0, len(unchanged) - 1, UNCHANGED).astype(int)
        unchanged = unchanged[np.unique(evenly_spaced)]
    queries = [*comparison.lost(LOST), *comparison.gained(GAINED), *unchanged]
    return [
        {
            "query": _text(take, after.queries[query]),
            "metric": after.per_case_metric,
            "change": float(change_Q[query]),
            "right": [_text(take, item) for item in after.right[query, :SHOWN] if item >= 0],
            "before": _hits(before, query, take),
            "after": _hits(after, query, take),
            "right_rank_before": _rank(before, query),
            "right_rank_after": _rank(after, query),
        }
        for query in queries
    ]


def _hits(result: RetrievalResult, query: int, take: Take) -> list[dict[str, Any]]:
    hits = []
    columns = result.hits[query, :SHOWN], result.gains[query], result.scores[query]
    for item, gain, score in zip(*columns, strict=False):
        if item >= 0:
            hits.append({"text": _text(take, item), "right": bool(gain > 0), "score": round(float(score), 4)})
    return hits


def _rank(result: RetrievalResult, query: int) -> int | None:
    return int(result.first_right[query]) or None


def _text(take: Take, item: int) -> str:
    return one_line(take(np.array([item]))[0], _MAX_TEXT)
