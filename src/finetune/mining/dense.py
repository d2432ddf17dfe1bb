"""Candidates by the similarity of embeddings, in bounded memory.

Shapes: Q anchors, M documents, N items, P pairs, D width, K hits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT
from finetune.mining.retriever import Embed, Floats, Hits, Role

# Maps queries (Q, D), documents (M, D) and k to scores (Q, k) and indices of documents (Q, k), as `top_k`.
Search = Callable[[Floats, Floats, int], tuple[Any, Any]]
_PAIRS_AT_ONCE = 1 << 15
_SPARE = 8  # more hits than asked for, whose exact scores may be higher: the search rounds in another order


class Dense:
    """Ranks documents by the dot product of their vectors, which `embed` returns.

    `search` finds the nearest neighbors, by default exactly (`finetune.evaluation.search.top_k`). The scores of what it
    finds are computed again, pair by pair, so that they do not depend on threads, processes and blocks.
    """

    def __init__(self, embed: Embed, name: str = "own", search: Search | None = None) -> None:
        self.name = name
        self._embed, self._nearest = embed, search
        self._kept: dict[Role, tuple[Ints, Floats]] = {}  # the vectors of the last search

    def search(self, anchors_Q: Ints, documents_M: Ints, k: int) -> Hits:
        """Return the `k` most similar documents of each anchor.

        Raises:
            FinetuneError: a vector is not finite.
        """
        from finetune.evaluation.search import top_k

        anchors_QD, documents_MD = self._keep(anchors_Q, "query"), self._keep(documents_M, "document")
        nearest = self._nearest or top_k
        _, index_QK = nearest(anchors_QD, documents_MD, k + _SPARE)
        scores, found = np.full((len(anchors_Q), k), -np.inf, np.float32), np.full((len(anchors_Q), k), ABSENT)
        step = max(1, _PAIRS_AT_ONCE // index_QK.shape[1])
        for start in range(0, len(anchors_Q), step):
            index = index_QK[start : start + step]
            score = _products(anchors_QD[start : start + step], documents_MD, index)
            order = np.lexsort((index, -score))[:, :k]
            rows = slice(start, start + len(index)), slice(0, order.shape[1])
            index, scores[rows] = np.take_along_axis(index, order, 1), np.take_along_axis(score, order, 1)
            found[rows] = np.where(index == ABSENT, ABSENT, documents_M[index])
        return Hits(scores, found)

    def prepare(self, anchors_Q: Ints, documents_M: Ints) -> None:
        """Embed anchors and documents, and keep the vectors for the next calls with the same ones."""
        self._keep(anchors_Q, "query")
        self._keep(documents_M, "document")

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return the dot product of each pair."""
        left, left_D = self._vectors(anchors_P, "query")
        right, right_D = self._vectors(documents_P, "document")
        row_P, column_P = np.searchsorted(left, anchors_P), np.searchsorted(right, documents_P)
        score_P = np.empty(len(anchors_P), np.float32)
        for start in range(0, len(score_P), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            score_P[part] = np.einsum("pd,pd->p", left_D[row_P[part]], right_D[column_P[part]])
        return score_P

    def _keep(self, items_N: Ints, role: Role) -> Floats:
        """Return the vectors of items, and keep them for the next call."""
        kept = self._kept.get(role)
        if kept is None or not np.array_equal(kept[0], items_N):
            self._kept[role] = items_N, self._embed(items_N, role)
        return self._kept[role][1]

    def _vectors(self, items_P: Ints, role: Role) -> tuple[Ints, Floats]:
        """Return items, ascending, that include these, and their vectors."""
        kept = self._kept.get(role)
        if kept is not None and np.isin(items_P, kept[0]).all():
            return kept
        items_N = np.unique(items_P)
        return items_N, self._embed(items_N, role)


def _products(anchors_QD: Floats, documents_MD: Floats, index_QK: Ints) -> Floats:
    """Return the dot product of each anchor and each of its hits `(Q, K)`, -inf for a hit of -1."""
    products: Floats = np.einsum("qd,qkd->qk", anchors_QD, documents_MD[index_QK])
    return np.where(index_QK == ABSENT, np.float32(-np.inf), products)


def approximate(queries_QD: Floats, documents_MD: Floats, k: int) -> tuple[Any, Any]:
    """Find about the nearest neighbors by an index (HNSW, usearch); a `Search`, without scores.

    Raises:
        CheckFailed: the package is not installed.
    """
    from finetune.evaluation.ann import approximate_top_k

    return None, approximate_top_k(queries_QD, documents_MD, k)
