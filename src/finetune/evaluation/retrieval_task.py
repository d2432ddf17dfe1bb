"""Judgments made ready to be measured on.

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

SHOWN = 10


@dataclass(frozen=True)
class Task:
    """Judgments made ready: only queries with something to find, one grade per (query, document)."""

    queries: Ints  # (Q,) item rows
    corpus: Ints  # (M,) item rows
    keys: Ints  # (J,) query * M + document, ascending
    grades: Floats  # (J,)
    lost_query: Ints  # (L,) the query of each right answer that is not in the corpus
    lost_grade: Floats  # (L,) and its grade, above 0
    exclude_self: bool = True  # a query never finds itself

    def gains_of(self, hits_QK: Ints) -> Floats:
        """Grades of hits given as corpus indices, 0 for what nobody judged and for absent (-1) hits."""
        wanted = np.arange(len(self.queries))[:, None] * len(self.corpus) + hits_QK
        place = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where((self.keys[place] == wanted) & (hits_QK >= 0), self.grades[place], 0.0)

    def ideal(self, k: int) -> tuple[Floats, Ints]:
        """The k best grades of each query, descending and padded with 0, and their corpus indices, padded with -1.

        An answer that is not in the corpus has its grade, and no index.
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
        """Number of right documents of each query, also of those that are not in the corpus."""
        right = np.append(self.keys[self.grades > 0] // len(self.corpus), self.lost_query)
        return np.bincount(right, minlength=len(self.queries))

    def without_selves(self, find: Callable[[int], Ints], depth: int) -> Ints:
        """Return the best hits (Q, depth) that `find` gives for a depth, without the query itself; -1 for none."""
        found = find(depth + self._most_selves())
        if self.exclude_self:
            itself = self.corpus[found] == self.queries[:, None]
            order = np.argsort(itself, axis=1, kind="stable")
            found = np.take_along_axis(np.where(itself, -1, found), order, axis=1)
        found = found[:, :depth]
        return np.pad(found, ((0, 0), (0, depth - found.shape[1])), constant_values=-1)

    def _most_selves(self) -> int:
        """Return how often a query stands in the corpus at most: several ids may have the same text."""
        if not self.exclude_self:
            return 0
        rows, counts = np.unique(self.corpus, return_counts=True)
        place = np.searchsorted(rows, self.queries).clip(max=len(rows) - 1)
        return int(np.where(rows[place] == self.queries, counts[place], 0).max())


def prepare_task(judgments: Judgments, exclude_self: bool = True) -> tuple[Task, dict[str, int]]:
    """Return the task that judgments make, and what there is of what.

    Of several grades of the same pair the highest holds. Raises FinetuneError when no judgment is above grade 0.
    """
    queries, corpus = (np.asarray(rows, dtype=np.int64) for rows in (judgments.queries, judgments.corpus))
    query, document = (np.asarray(j, dtype=np.int64) for j in (judgments.query_index, judgments.document_index))
    grade = np.asarray(judgments.grade, dtype=np.float64)
    other = queries[query] != corpus[document] if exclude_self else np.ones(len(query), bool)
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
    # Ascending by grade within a key, so that the last of equal keys is the highest grade given.
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
    """Return the judgments of `count` of the queries, always the same ones; of all without a count."""
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
