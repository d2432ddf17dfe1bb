"""Reranking metrics: the order of a few documents for each query, for models that are too slow for a full search.

Shapes: Q queries, C candidates of each, P pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from finetune.config.types import Built, NotEmpty, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Search, Texts
from finetune.evaluation.result import Floats, Ints
from finetune.evaluation.retrieval import Retrieval, RetrievalResult
from finetune.evaluation.retrieval_task import SHOWN, Task, prepare_task, sample_queries
from finetune.evaluation.search import top_k

if TYPE_CHECKING:
    from finetune.data.holdout.judgments import Judgments

# Maps the items of P queries and of P documents to the scores of the pairs (P,).
Score = Callable[[Ints, Ints], NDArray[np.float32]]


class Reranking(Retrieval):
    """The metrics of `Retrieval` over `candidates` documents of each query: the judged ones, and random others.

    The random documents, and the sample of `queries`, are drawn with a fixed seed: every model gets the same ones. The
    values are higher than those of a search among all documents, and not comparable with them.
    """

    takes_scores: ClassVar[bool] = True

    def __init__(
        self,
        metrics: Annotated[list[str | Built], NotEmpty()],
        candidates: PositiveInt,
        queries: PositiveInt | None,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(
            metrics,
            queries,
            exclude_self=True,
            dimensions=[],
            precisions=[],
            index="exact",
            bm25=False,
            bootstrap_samples=bootstrap_samples,
            data=data,
        )
        self.candidates = candidates

    def evaluate(  # type: ignore[override]
        self, eval_data: Judgments, rate: Score, texts: Texts | None = None, search: Search = top_k
    ) -> RetrievalResult:
        """Score the candidates of each query that has a right document, and sort them by score.

        Raises:
            FinetuneError: no judgment is above grade 0, or a score is not finite.
        """
        start = time.monotonic()
        task, counts = prepare_task(sample_queries(eval_data, self.queries))
        hits_QK, score_QK = _rank(task, rate, self.candidates, self._depth(task))
        right_QS = task.ideal(SHOWN)[1]
        scores = [score_QK[:, :SHOWN], _scores_of(right_QS, hits_QK, score_QK)]
        return self._result(eval_data.name, task, hits_QK, scores, counts, start)

    def _notes(self, documents: int) -> Iterator[str]:
        yield from ()  # the size of the corpus does not matter: only the candidates can be found


def _scores_of(places_QS: Ints, hits_QK: Ints, score_QK: Floats) -> Floats:
    """Return the scores of documents (Q, S), NaN for those that are not among the hits."""
    same_QSK = (places_QS[:, :, None] == hits_QK[:, None, :]) & (places_QS >= 0)[:, :, None]
    score_QS = np.take_along_axis(score_QK, same_QSK.argmax(2), axis=1)
    return np.where(same_QSK.any(2), score_QS, np.nan)


def _rank(task: Task, rate: Score, candidates: int, depth: int) -> tuple[Ints, Floats]:
    """Return the candidates of each query as corpus indices, best first, and their scores, both `(Q, depth)`.

    Padded with -1 and NaN.
    """
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
    score_QK = np.full((len(task.queries), depth), np.nan)
    score_QK[query_P[seen], rank_P[seen]] = score_P[order_P][seen]
    return hits_QK, score_QK


def _candidates(task: Task, count: int) -> tuple[Ints, Ints]:
    """Return query and document of each pair: all judged documents, then random others up to `count`."""
    documents, queries = len(task.corpus), len(task.queries)
    random = np.random.default_rng(0).integers(0, documents, (queries, count))
    drawn = (np.arange(queries)[:, None] * documents + random).ravel()
    drawn = drawn[~np.isin(drawn, task.keys)]
    itself = task.corpus[drawn % documents] == task.queries[drawn // documents]
    keys = np.concatenate([task.keys, np.unique(drawn[~itself])])
    query = keys // documents
    order = np.argsort(query, kind="stable")  # the judged ones stay first
    keys, query = keys[order], query[order]
    rank = np.arange(len(keys)) - np.searchsorted(query, query)
    judged = np.bincount(task.keys // documents, minlength=queries)
    kept = rank < np.maximum(count, judged[query])
    return query[kept], keys[kept] % documents
