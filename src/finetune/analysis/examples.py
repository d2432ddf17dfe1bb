"""Queries with what was found before and after side by side: the worst regressions, the best gains, some unchanged.

Q queries, S hits that are shown.
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
_KEPT = 400  # characters of a text

Take = Callable[[Ints], list[str]]


def examples(comparison: Comparison, take: Take) -> list[dict[str, Any]]:
    """Return the report's examples of one evaluation; none where it does not search.

    `change` is that of the evaluation's headline metric, `right_rank` the place of the first right hit, from 1, and
    None where it is deeper than was looked at. `right` are the texts that should have been found.
    """
    before, after = comparison.before, comparison.after
    if not (isinstance(before, RetrievalResult) and isinstance(after, RetrievalResult)):
        return []
    change_Q = after.per_query[after.headline] - before.per_query[after.headline]
    unchanged = np.flatnonzero(change_Q == 0)
    some = unchanged[np.unique(np.linspace(0, len(unchanged) - 1, UNCHANGED).astype(int))] if len(unchanged) else []
    queries = [*comparison.lost(LOST), *comparison.gained(GAINED), *some]
    return [
        {
            "query": _text(take, after.queries[query]),
            "metric": after.headline,
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
    return [
        {"text": _text(take, item), "right": bool(gain > 0), "score": round(float(score), 4)}
        for item, gain, score in zip(
            result.hits[query, :SHOWN], result.gains[query], result.scores[query], strict=False
        )
        if item >= 0
    ]


def _rank(result: RetrievalResult, query: int) -> int | None:
    return int(result.first_right[query]) or None


def _text(take: Take, item: int) -> str:
    return one_line(take(np.array([item]))[0], _KEPT)
