"""Judgments in the form that retrieval metrics need.

Shapes: Q queries with at least one right document, M documents, J judgments, K hits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import sample_rows
from finetune.evaluation.result import Floats, Ints

if TYPE_CHECKING:
    from finetune.data.holdout.judgments import Judgments

SHOWN = 10  # hits of each query that are kept in the result


@dataclass(frozen=True)
class Task:
    """Judgments with only the queries that have a right document, and one grade per (query, document)."""

    queries: Ints  # (Q,) item rows
    corpus: Ints  # (M,) item rows
    keys: Ints  # (J,) query * M + document, ascending
    grades: Floats  # (J,)
    lost_query: Ints  # (L,) the query of each right document that is not in the corpus
    lost_grade: Floats  # (L,) and its grade, above 0
    exclude_self: bool = True  # a query that is in the corpus is no hit of itself

    def gains_of(self, hits_QK: Ints) -> Floats:
        """Return the grades of hits given as corpus indices, 0 for unjudged and for missing (-1) hits."""
        wanted = np.arange(len(self.queries))[:, None] * len(self.corpus) + hits_QK
        place = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where((self.keys[place] == wanted) & (hits_QK >= 0), self.grades[place], 0.0)

    def ideal(self, k: int) -> tuple[Floats, Ints]:
        """Return the k best grades of each query, descending and padded with 0, and their corpus indices.

        The indices are padded with -1, and -1 for a right document that is not in the corpus, whose grade counts.
        """
        query, document = np.divmod(self.keys, len(self.corpus))
        query, grades = np.append(query, self.lost_query), np.append(self.grades, self.lost_grade)
        document = np.append(document, np.full(len(self.lost_query), -1))
        order = np.lexsort((document, -grades, query))
        query, document, grades = query[order], document[order], grades[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = (rank < k) & (grades > 0)
        gains_Qk = np.zeros((len(self.queries), k))
        index_Qk = np.full((len(self.queries), k), -1, dtype=np.int64)
        gains_Qk[query[kept], rank[kept]] = grades[kept]
        index_Qk[query[kept], rank[kept]] = document[kept]
        return gains_Qk, index_Qk

    def relevant(self) -> Ints:
        """Return the number of right documents of each query, including those that are not in the corpus."""
        right = np.append(self.keys[self.grades > 0] // len(self.corpus), self.lost_query)
        return np.bincount(right, minlength=len(self.queries))

    def without_selves(self, search: Callable[[int], Ints], depth: int) -> Ints:
        """Return the best hits (Q, depth) that `search` returns for a depth, without the query itself; -1 for none."""
        hits_QK = search(depth + self._max_selves())
        if self.exclude_self:
            itself_QK = self.corpus[hits_QK] == self.queries[:, None]
            order_QK = np.argsort(itself_QK, axis=1, kind="stable")
            hits_QK = np.take_along_axis(np.where(itself_QK, -1, hits_QK), order_QK, axis=1)
        hits_QK = hits_QK[:, :depth]
        return np.pad(hits_QK, ((0, 0), (0, depth - hits_QK.shape[1])), constant_values=-1)

    def _max_selves(self) -> int:
        """Return how often a query is in the corpus at most: several ids may have the same text."""
        if not self.exclude_self:
            return 0
        rows, counts = np.unique(self.corpus, return_counts=True)
        place = np.searchsorted(rows, self.queries).clip(max=len(rows) - 1)
        return int(np.where(rows[place] == self.queries, counts[place], 0).max())


def prepare_task(judgments: Judgments, exclude_self: bool = True) -> tuple[Task, dict[str, int]]:
    """Return the task of judgments, and counts of its queries, documents and judgments.

    Of several grades for the same pair the highest is used.

    Raises:
        FinetuneError: no judgment is above grade 0.
    """
    queries, corpus = np.asarray(judgments.queries, dtype=np.int64), np.asarray(judgments.corpus, dtype=np.int64)
    query = np.asarray(judgments.query_index, dtype=np.int64)
    document = np.asarray(judgments.document_index, dtype=np.int64)
    grade = np.asarray(judgments.grade, dtype=np.float64)
    other = np.ones(len(query), bool)
    if exclude_self:
        other = queries[query] != corpus[document]
    kept = np.unique(np.append(query[other & (grade > 0)], judgments.lost_query))
    if not (other & (grade > 0)).any():
        raise FinetuneError(
            f"{judgments.name}: no query has a right document (a judgment above 0), so there is nothing to measure.",
            "Check the scores in the judgments, or choose other data with data.validation_path.",
        )
    new_index = np.full(len(queries), -1, dtype=np.int64)
    new_index[kept] = np.arange(len(kept))
    used = other & (new_index[query] >= 0)
    keys = new_index[query[used]] * len(corpus) + document[used]
    # Ascending by grade within a key, so that the last of equal keys has the highest grade.
    order = np.lexsort((grade[used], keys))
    keys, grades = keys[order], grade[used][order]
    last = np.append(keys[1:] != keys[:-1], True)
    lost = new_index[judgments.lost_query]
    task = Task(queries[kept], corpus, keys[last], grades[last], lost, judgments.lost_grade, exclude_self)
    counts = {
        "queries": len(kept),
        "queries without a right document": len(queries) - len(kept),
        "documents": len(corpus),
        "judgments": len(task.keys),
    }
    if len(lost):
        counts["right documents that are not in the corpus"] = len(lost)
    return task, counts


def sample_queries(judgments: Judgments, count: int | None) -> Judgments:
    """Return the judgments of a fixed random sample of `count` queries; of all queries without a count."""
    kept = sample_rows(len(judgments.queries), count)
    if len(kept) == len(judgments.queries):
        return judgments
    place = np.full(len(judgments.queries), -1)
    place[kept] = np.arange(len(kept))
    used, lost = place[judgments.query_index] >= 0, place[judgments.lost_query] >= 0
    return replace(
        judgments,
        queries=judgments.queries[kept],
        query_index=place[judgments.query_index[used]],
        document_index=judgments.document_index[used],
        grade=judgments.grade[used],
        lost_query=place[judgments.lost_query[lost]],
        lost_grade=judgments.lost_grade[lost],
    )
