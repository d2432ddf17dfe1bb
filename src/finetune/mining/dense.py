"""Candidates by the similarity of embeddings, exact, in bounded memory.

Shapes: Q anchors, M documents, P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.data.arrays import Ints, distinct
from finetune.mining.retriever import Embed, Floats, Hits, Role

# Maps queries (Q, D), documents (M, D) and k to scores (Q, k) and indices of documents (Q, k), as `top_k`.
Search = Callable[[Floats, Floats, int], tuple[Any, Any]]


class Dense:
    """Ranks documents by the dot product of their vectors, which `embed` returns; each item is embedded once.

    `search` finds the nearest neighbors; by default that of `finetune.evaluation.search`.
    """

    def __init__(self, embed: Embed, name: str = "own", search: Search | None = None) -> None:
        self.name = name
        self._embed = embed
        self._nearest = search
        self._kept: dict[Role, tuple[Ints, Floats]] = {}

    def search(self, anchors_Q: Ints, documents_M: Ints, k: int) -> Hits:
        """Return the `k` most similar documents of each anchor."""
        from finetune.evaluation.search import top_k

        nearest = self._nearest or top_k
        scores, index = nearest(self._vectors(anchors_Q, "query"), self._vectors(documents_M, "document"), k)
        return Hits(scores, documents_M[index])

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return the dot product of each pair."""
        left, right = distinct(anchors_P), distinct(documents_P)
        left_D, right_D = self._vectors(left, "query"), self._vectors(right, "document")
        pairs = np.searchsorted(left, anchors_P), np.searchsorted(right, documents_P)
        score_P: Floats = np.einsum("pd,pd->p", left_D[pairs[0]], right_D[pairs[1]])
        return score_P

    def _vectors(self, items_N: Ints, role: Role) -> Floats:
        return self._embed(items_N, role)
