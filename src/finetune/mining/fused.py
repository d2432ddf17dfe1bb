"""Several rankings joined by reciprocal rank.

Shapes: Q anchors, M documents, P pairs, K hits of each of R retrievers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT
from finetune.mining.retriever import Floats, Hits, Retriever

_CONSTANT = 60  # of the paper: the larger, the less do the first ranks count
_ANCHORS_AT_ONCE = 4096


class Fused:
    """Ranks documents by the sum of 1 / (60 + rank) over several retrievers; one that none of them found is not there.

    The scores of pairs are those of `scorer`.

    Source: Cormack, Clarke and Büttcher 2009, https://doi.org/10.1145/1571941.1572114.
    """

    def __init__(self, retrievers: Sequence[Retriever], scorer: Retriever) -> None:
        self.name = " + ".join(each.name for each in retrievers)
        self._retrievers, self._scorer = retrievers, scorer

    def search(self, anchors_Q: Ints, documents_M: Ints, k: int) -> Hits:
        """Return the `k` best documents of each anchor; the scores are the sums."""
        found_QR = [each.search(anchors_Q, documents_M, k).items for each in self._retrievers]
        starts = range(0, len(anchors_Q), _ANCHORS_AT_ONCE)
        parts = [join_by_rank([found[start : start + _ANCHORS_AT_ONCE] for found in found_QR], k) for start in starts]
        if not parts:
            return Hits(np.empty((0, k), np.float32), np.empty((0, k), np.int64))
        return Hits(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return the score of each pair by the scorer."""
        return self._scorer.score(anchors_P, documents_P)


def join_by_rank(rankings: Sequence[Ints], k: int) -> Hits:
    """Return the `k` best of several rankings `(Q, K)`, padded with -1."""
    items = np.concatenate(rankings, axis=1)
    points = np.concatenate(
        [np.broadcast_to(1 / (_CONSTANT + 1.0 + np.arange(r.shape[1])), r.shape) for r in rankings], 1
    )
    order = np.argsort(items, axis=1, kind="stable")
    items, points = np.take_along_axis(items, order, 1), np.take_along_axis(points, order, 1)
    # The points of an item are summed at the first place of its run.
    is_first = np.ones(items.shape, bool)
    is_first[:, 1:] = items[:, 1:] != items[:, :-1]
    run = np.cumsum(is_first.ravel()) - 1
    total = np.bincount(run, points.ravel(), minlength=int(run[-1]) + 1)[run].reshape(items.shape)
    total = np.where(is_first & (items != ABSENT), total, -np.inf)
    best = np.argsort(-total, axis=1, kind="stable")[:, :k]  # items ascend, so the smaller one is first
    scores = np.take_along_axis(total, best, 1)
    found = np.where(np.isfinite(scores), np.take_along_axis(items, best, 1), ABSENT)
    padding = [(0, 0), (0, max(0, k - best.shape[1]))]
    return Hits(
        np.pad(scores, padding, constant_values=-np.inf).astype(np.float32),
        np.pad(found, padding, constant_values=ABSENT),
    )
