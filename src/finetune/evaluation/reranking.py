"""How well a model puts a few documents of each query in order; for models that are too slow to search with.

Shapes: Q queries, C candidates of each, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from finetune.config.types import NotEmpty, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.retrieval import Ints, Retrieval, RetrievalResult, Task

if TYPE_CHECKING:
    from finetune.data.judgments import Judgments

# Takes the items of P queries and of P documents, and gives the score of each pair.
Score = Callable[[Ints, Ints], NDArray[np.float32]]


class Reranking(Retrieval):
    """The metrics of `Retrieval` over `candidates` documents of each query: those that were judged, and random others.

    The others, and the `queries` of a larger set, are drawn by a seed of their own: every model has the same ones. The
    numbers are higher than those of a search among all documents, and not to be compared with them.
    """

    takes_scores: ClassVar[bool] = True

    def __init__(
        self,
        candidates: PositiveInt,
        queries: PositiveInt | None,
        recall_at: Annotated[list[PositiveInt], NotEmpty()],
        ndcg_at: PositiveInt,
        mrr_at: PositiveInt,
        map_at: PositiveInt,
        bootstrap_samples: PositiveInt,
    ) -> None:
        super().__init__(recall_at, ndcg_at, mrr_at, map_at, bootstrap_samples)
        self.candidates = candidates
        self.queries = queries

    def evaluate(self, judgments: Judgments, rate: Score) -> RetrievalResult:  # type: ignore[override]
        """Score the candidates of each query that has a right document, and put them in order.

        Raises FinetuneError when no judgment is above grade 0 or a score is not finite.
        """
        if self.queries is not None and self.queries < len(judgments.queries):
            judgments = _some(judgments, self.queries)
        return self._evaluate(judgments, lambda task, depth: _ranked(task, rate, self.candidates, depth))


def _some(judgments: Judgments, count: int) -> Judgments:
    kept = np.sort(np.random.default_rng(0).permutation(len(judgments.queries))[:count])
    place = np.full(len(judgments.queries), -1)
    place[kept] = np.arange(count)
    used = place[judgments.query_index] >= 0
    return replace(
        judgments,
        queries=judgments.queries[kept],
        query_index=place[judgments.query_index[used]],
        document_index=judgments.document_index[used],
        grade=judgments.grade[used],
    )


def _ranked(task: Task, rate: Score, candidates: int, depth: int) -> Ints:
    """Return the candidates of each query as corpus indices `(Q, depth)`, best first, -1 where there are no more."""
    query_P, document_P = _candidates(task, candidates)
    score_P = rate(task.queries[query_P], task.corpus[document_P])
    if not np.isfinite(score_P).all():
        raise FinetuneError(
            f"{int((~np.isfinite(score_P)).sum()):,} of {len(score_P):,} scores are not finite.",
            "The model diverged, or its weights are damaged: try a smaller optimizer.lr.",
        )
    order_P = np.lexsort((document_P, -score_P, query_P))
    query_P, document_P = query_P[order_P], document_P[order_P]
    rank_P = np.arange(len(query_P)) - np.searchsorted(query_P, query_P)
    hits_QK = np.full((len(task.queries), depth), -1)
    seen = rank_P < depth
    hits_QK[query_P[seen], rank_P[seen]] = document_P[seen]
    return hits_QK


def _candidates(task: Task, count: int) -> tuple[Ints, Ints]:
    """Return query and document of each pair: all judged documents, then others until there are `count`."""
    documents, queries = len(task.corpus), len(task.queries)
    random = np.random.default_rng(0).integers(0, documents, (queries, count))
    drawn = (np.arange(queries)[:, None] * documents + random).ravel()
    drawn = drawn[~np.isin(drawn, task.keys)]
    itself = task.corpus[drawn % documents] == task.queries[drawn // documents]
    keys = np.concatenate([task.keys, np.unique(drawn[~itself])])
    query = keys // documents
    order = np.argsort(query, kind="stable")  # the judged ones stay in front
    keys, query = keys[order], query[order]
    rank = np.arange(len(keys)) - np.searchsorted(query, query)
    judged = np.bincount(task.keys // documents, minlength=queries)
    kept = rank < np.maximum(count, judged[query])
    return query[kept], keys[kept] % documents
