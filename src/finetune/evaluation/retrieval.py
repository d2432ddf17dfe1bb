"""Retrieval metrics of one model on one set of judgments.

Shapes: Q queries with at least one right document, M documents, J judgments, K hits, S hits shown in the report,
D embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.config.types import Built, NotEmpty, PositiveInt
from finetune.evaluation import ann
from finetune.evaluation import bm25 as lexical
from finetune.evaluation.evaluator import Embed, Evaluator, Search, Texts
from finetune.evaluation.metric_values import cut_off, measure, retrieval_metrics
from finetune.evaluation.ranking import Ranking, example_ranking
from finetune.evaluation.result import Floats, Ints, Result
from finetune.evaluation.retrieval_task import SHOWN, Task, prepare_task, sample_queries
from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import variants

if TYPE_CHECKING:
    from finetune.data.holdout.judgments import Judgments


@dataclass(frozen=True, kw_only=True)
class RetrievalResult(Result):
    """The hits of one model for each query; items are row numbers, -1 for none.

    `hits` (Q, S) are the best hits, `gains` (Q, S) their grades, `scores` (Q, S) their scores. `right` (Q, S) are the
    right documents, highest grade first, `right_scores` (Q, S) their scores; NaN where there is no item. `first_right`
    (Q,) is the rank of the first right hit, from 1, or 0 if there is none. `seconds` is the time of encoding, search
    and metrics together.
    """

    hits: Ints
    gains: Floats
    scores: Floats
    right: Ints
    right_scores: Floats
    first_right: Ints


class Retrieval(Evaluator):
    """Ranking metrics of a search in the whole corpus, per query; the arguments are documented in their config file."""

    metric_inputs: ClassVar[tuple[str, ...]] = ("relevance", "relevant", "ideal", "preds", "target", "indexes")
    metric_package: ClassVar[str] = "torchmetrics.retrieval"

    def __init__(
        self,
        metrics: Annotated[list[str | Built], NotEmpty()],
        queries: PositiveInt | None,
        exclude_self: bool,
        dimensions: list[PositiveInt],
        precisions: list[Literal["int8", "binary"]],
        index: Literal["exact", "approximate"],
        bm25: bool | Literal["auto"],
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.metrics = retrieval_metrics(metrics, example_ranking())
        self.queries = queries
        self.exclude_self = exclude_self
        self.dimensions = dimensions
        self.precisions = precisions
        self.index = index
        self.bm25 = lexical.is_installed() if bm25 == "auto" else bm25
        self._bm25_means: tuple[Judgments, Mapping[str, float]] | None = None

    @property
    def headline(self) -> str:
        """The metric that a run is judged by."""
        return next(iter(self.metrics))

    def evaluate(
        self, eval_data: Judgments, embed: Embed, texts: Texts | None = None, search: Search = top_k
    ) -> RetrievalResult:
        """Encode queries and corpus, search, and compute the metrics of each query that has a right document.

        `embed` maps item rows (n,) to embeddings (n, D); each item is embedded once.

        Raises:
            FinetuneError: no judgment is above grade 0, or an embedding is not finite.
        """
        start = time.monotonic()
        task, counts = prepare_task(sample_queries(eval_data, self.queries), self.exclude_self)
        depth = self._depth(task)
        queries_QD, corpus_MD = _embed(task, embed)
        hits_QK = self._search(task, queries_QD, corpus_MD, depth, search)
        hit_scores_QS = _scores(queries_QD, corpus_MD, hits_QK[:, :SHOWN])
        right_scores_QS = _scores(queries_QD, corpus_MD, task.ideal(SHOWN)[1])
        result = self._result(eval_data.name, task, hits_QK, [hit_scores_QS, right_scores_QS], counts, start)
        for name, cut_QD, cut_MD in variants(queries_QD, corpus_MD, self.dimensions, self.precisions):
            hits_QK = self._search(task, cut_QD, cut_MD, depth, search)
            values = self._measure(Ranking(task, hits_QK), [self.headline])
            result.per_query[f"{self.headline} ({name})"] = values[self.headline]
        baselines = self._baselines(eval_data, task, texts, depth)
        return replace(result, baselines=baselines, seconds=time.monotonic() - start)

    def _depth(self, task: Task) -> int:
        """Return the number of hits that the metrics need."""
        cut_offs = [cut_off(metric) for metric in self.metrics.values()]
        depths = [SHOWN, *(k for k in cut_offs if k is not None)]
        if None in cut_offs:  # R-precision
            depths.append(int(task.relevant().max()))
        return max(depths)

    def _result(
        self, name: str, task: Task, hits_QK: Ints, scores: Sequence[Floats], counts: dict[str, int], start: float
    ) -> RetrievalResult:
        """Return the result of hits; `scores` are those of the shown hits and of the right documents, both (Q, S)."""
        ranking = Ranking(task, hits_QK)
        gains_QK = ranking.relevance
        # The last entry is for missing hits, whose index is -1.
        items = np.append(task.corpus, -1)
        return RetrievalResult(
            name=name,
            headline=self.headline,
            per_query=self._measure(ranking, self.metrics),
            queries=task.queries,
            hits=items[hits_QK[:, :SHOWN]],
            gains=gains_QK[:, :SHOWN],
            scores=scores[0],
            right=items[task.ideal(SHOWN)[1]],
            right_scores=scores[1],
            first_right=np.where((gains_QK > 0).any(1), (gains_QK > 0).argmax(1) + 1, 0),
            counts=counts,
            bootstrap_samples=self.bootstrap_samples,
            seconds=time.monotonic() - start,
            notes=list(self._notes(len(task.corpus))),
        )

    def _measure(self, ranking: Ranking, names: Iterable[str]) -> dict[str, Floats]:
        return measure({name: self.metrics[name] for name in names}, ranking)

    def _notes(self, documents: int) -> Iterator[str]:
        cut_offs = {name: cut_off(metric) or 0 for name, metric in self.metrics.items()}
        deep = {name: k for name, k in cut_offs.items() if k > documents}
        if deep:
            largest = max(deep.values())
            yield f"{', '.join(deep)}: the corpus has only {documents:,} documents, fewer than the cut-off {largest:,}."

    def _search(
        self, task: Task, queries_QD: NDArray[np.float32], corpus_MD: NDArray[np.float32], depth: int, search: Search
    ) -> Ints:
        def find(k: int) -> Ints:
            if self.index == "approximate":
                return ann.approximate_top_k(queries_QD, corpus_MD, k)
            return search(queries_QD, corpus_MD, k)[1]

        return task.without_selves(find, depth)

    def _baselines(
        self, eval_data: Judgments, task: Task, texts: Texts | None, depth: int
    ) -> Mapping[str, Mapping[str, float]]:
        """Return the same metrics of BM25; computed once per judgments, since they do not depend on the model."""
        if texts is None or not self.bm25:
            return {}
        if self._bm25_means is None or self._bm25_means[0] is not eval_data:
            queries, corpus = texts(task.queries), texts(task.corpus)
            hits_QK = task.without_selves(lambda k: lexical.bm25(queries, corpus, k), depth)
            values = self._measure(Ranking(task, hits_QK), self.metrics)
            self._bm25_means = eval_data, {name: float(values_Q.mean()) for name, values_Q in values.items()}
        return {"BM25": self._bm25_means[1]}


def _scores(queries_QD: NDArray[np.float32], corpus_MD: NDArray[np.float32], places_QS: Ints) -> Floats:
    """Return the dot products of queries and the documents at these indices, (Q, S); NaN for an index of -1."""
    score_QS = np.full(places_QS.shape, np.nan)
    for place in range(places_QS.shape[1]):  # one column at a time, to save memory
        rows = np.flatnonzero(places_QS[:, place] >= 0)
        score_QS[rows, place] = np.einsum("qd,qd->q", queries_QD[rows], corpus_MD[places_QS[rows, place]])
    return score_QS


def _embed(task: Task, embed: Embed) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the embeddings of queries and corpus, `(Q, D)` and `(M, D)`; items in both are embedded once."""
    rows, place = np.unique(np.concatenate([task.queries, task.corpus]), return_inverse=True)
    embeddings = embed(rows)
    return embeddings[place[: len(task.queries)]], embeddings[place[len(task.queries) :]]
