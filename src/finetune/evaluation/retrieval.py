"""Search quality of one model on one set of judgments.

Shapes: Q queries with at least one right document, M documents, J judgments, K hits looked at, S shown in the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from finetune.config.types import NotEmpty, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation import metrics
from finetune.evaluation.search import top_k

if TYPE_CHECKING:
    from finetune.data.judgments import Judgments

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Embed = Callable[[Ints], NDArray[np.float32]]

SHOWN = 10


@dataclass(frozen=True)
class RetrievalResult:
    """What one model found, per query; items are row numbers, -1 where there is none.

    `per_query` maps names such as `nDCG@10` to (Q,) float64, the headline first. `hits` (Q, S) are the best hits,
    `gains` (Q, S) their grades, `right` (Q, S) the documents that should have been found, best grade first.
    `seconds` is the time of encoding, search and metrics together.
    """

    name: str
    headline: str
    per_query: dict[str, Floats]
    queries: Ints
    hits: Ints
    gains: Floats
    right: Ints
    counts: dict[str, int]
    bootstrap_samples: int
    seconds: float

    @property
    def means(self) -> dict[str, float]:
        """Metric name to its mean over the queries."""
        return {metric: float(values.mean()) for metric, values in self.per_query.items()}


@dataclass(frozen=True)
class Task:
    """Judgments made ready: only queries with something to find, one grade per (query, document), no self-matches."""

    queries: Ints  # (Q,) item rows
    corpus: Ints  # (M,) item rows
    keys: Ints  # (J,) query * M + document, ascending
    grades: Floats  # (J,)

    def gains_of(self, hits_QK: Ints) -> Floats:
        """Grades of hits given as corpus indices, 0 for what nobody judged and for absent (-1) hits."""
        wanted = np.arange(len(self.queries))[:, None] * len(self.corpus) + hits_QK
        place = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where((self.keys[place] == wanted) & (hits_QK >= 0), self.grades[place], 0.0)

    def ideal(self, k: int) -> tuple[Floats, Ints]:
        """The k best grades of each query, descending and padded with 0, and their corpus indices, padded with -1."""
        query, document = np.divmod(self.keys, len(self.corpus))
        order = np.lexsort((document, -self.grades, query))
        query, document, grades = query[order], document[order], self.grades[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = (rank < k) & (grades > 0)
        gains_Qk = np.zeros((len(self.queries), k))
        index_Qk = np.full((len(self.queries), k), -1, dtype=np.int64)
        gains_Qk[query[kept], rank[kept]] = grades[kept]
        index_Qk[query[kept], rank[kept]] = document[kept]
        return gains_Qk, index_Qk

    def relevant(self) -> Ints:
        """Number of right documents of each query."""
        return np.bincount(self.keys[self.grades > 0] // len(self.corpus), minlength=len(self.queries))


class Retrieval:
    """Recall, MRR, nDCG and MAP of exact search, per query; the arguments are explained in their config file."""

    takes_scores: ClassVar[bool] = False  # True: it asks for the scores of pairs, which any model can give

    def __init__(
        self,
        recall_at: Annotated[list[PositiveInt], NotEmpty()],
        ndcg_at: PositiveInt,
        mrr_at: PositiveInt,
        map_at: PositiveInt,
        bootstrap_samples: PositiveInt,
    ) -> None:
        self.recall_at = recall_at
        self.ndcg_at = ndcg_at
        self.mrr_at = mrr_at
        self.map_at = map_at
        self.bootstrap_samples = bootstrap_samples

    @property
    def headline(self) -> str:
        """The one metric that a run is judged by."""
        return f"nDCG@{self.ndcg_at}"

    def evaluate(self, judgments: Judgments, embed: Embed) -> RetrievalResult:
        """Encodes queries and corpus, searches exactly, and scores each query that has a right document.

        `embed` takes item rows (n,) and gives their embeddings (n, D); each item is asked for once. A query never
        finds itself. Raises FinetuneError when no judgment is above grade 0 or an embedding is not finite.
        """
        return self._evaluate(judgments, lambda task, depth: _search(task, embed, depth))

    def _evaluate(self, judgments: Judgments, find: Callable[[Task, int], Ints]) -> RetrievalResult:
        start = time.monotonic()
        task, counts = _prepare(judgments)
        hits_QK = find(task, max(SHOWN, self.ndcg_at, self.mrr_at, self.map_at, *self.recall_at))
        gains_QK = task.gains_of(hits_QK)
        # The empty last place takes the -1 of absent hits.
        items = np.append(task.corpus, -1)
        return RetrievalResult(
            name=judgments.name,
            headline=self.headline,
            per_query=self._measure(task, gains_QK),
            queries=task.queries,
            hits=items[hits_QK[:, :SHOWN]],
            gains=gains_QK[:, :SHOWN],
            right=items[task.ideal(SHOWN)[1]],
            counts=counts,
            bootstrap_samples=self.bootstrap_samples,
            seconds=time.monotonic() - start,
        )

    def _measure(self, task: Task, gains_QK: Floats) -> dict[str, Floats]:
        relevant_Q = task.relevant()
        ideal_Qk, _ = task.ideal(self.ndcg_at)
        recalls = {f"recall@{k}": metrics.recall(gains_QK, relevant_Q, k) for k in sorted(set(self.recall_at))}
        return {
            self.headline: metrics.ndcg(gains_QK, ideal_Qk, self.ndcg_at),
            **recalls,
            f"MRR@{self.mrr_at}": metrics.reciprocal_rank(gains_QK, self.mrr_at),
            f"MAP@{self.map_at}": metrics.average_precision(gains_QK, relevant_Q, self.map_at),
        }


def _prepare(judgments: Judgments) -> tuple[Task, dict[str, int]]:
    queries, corpus = (np.asarray(rows, dtype=np.int64) for rows in (judgments.queries, judgments.corpus))
    query, document = (np.asarray(j, dtype=np.int64) for j in (judgments.query_index, judgments.document_index))
    grade = np.asarray(judgments.grade, dtype=np.float64)
    other = queries[query] != corpus[document]
    kept = np.unique(query[other & (grade > 0)])
    if not len(kept):
        raise FinetuneError(
            f"{judgments.name}: no query has a right document (a judgment above 0), so there is nothing to measure.",
            "Check the scores in the judgments, or choose other data with data.validation_path.",
        )
    new_index = np.full(len(queries), -1, dtype=np.int64)
    new_index[kept] = np.arange(len(kept))
    used = other & (new_index[query] >= 0)
    keys = new_index[query[used]] * len(corpus) + document[used]
    # Ascending by grade within a key, so that the last of equal keys is the highest grade given.
    order = np.lexsort((grade[used], keys))
    keys, grades = keys[order], grade[used][order]
    last = np.append(keys[1:] != keys[:-1], True)
    task = Task(queries[kept], corpus, keys[last], grades[last])
    counts = {
        "queries": len(kept),
        "queries without a right document": len(queries) - len(kept),
        "documents": len(corpus),
        "judgments": len(task.keys),
    }
    return task, counts


def _search(task: Task, embed: Embed, depth: int) -> Ints:
    """Corpus indices of the best hits (Q, depth), the query itself taken out, -1 where the corpus ended."""
    rows, place = np.unique(np.concatenate([task.queries, task.corpus]), return_inverse=True)
    embeddings = embed(rows)
    queries_QD, corpus_MD = embeddings[place[: len(task.queries)]], embeddings[place[len(task.queries) :]]
    # A corpus may hold a text several times (under several ids): ask for as many more as can fall out.
    selves = int(np.bincount(place[len(task.queries) :], minlength=len(rows))[place[: len(task.queries)]].max())
    _, found = top_k(queries_QD, corpus_MD, depth + selves)
    itself = task.corpus[found] == task.queries[:, None]
    order = np.argsort(itself, axis=1, kind="stable")
    found = np.take_along_axis(np.where(itself, -1, found), order, axis=1)[:, :depth]
    return np.pad(found, ((0, 0), (0, depth - found.shape[1])), constant_values=-1)
