"""The hits of queries, in the forms in which metrics take them.

Shapes: Q queries, K hits of each, I relevant documents of each, P pairs of a query and a document.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torchmetrics import Metric

from finetune.evaluation.result import Floats, Ints
from finetune.evaluation.retrieval_task import Task


@dataclass(frozen=True)
class Ranking:
    """The hits (Q, K) of a task, as corpus indices, best first, -1 for none.

    `argument` returns `relevance`, `relevant` and `ideal` as in `finetune.metrics.retrieval`; and `preds`, `target` and
    `indexes` as in `torchmetrics.retrieval`: the hits of all queries, followed by the relevant documents that are not
    among them. `preds` fall with the rank: equal scores are in the order of the corpus. Irrelevant documents that are
    no hits are missing, so a metric that counts them, such as the fall-out, refers to the hits.
    """

    names: ClassVar[tuple[str, ...]] = ("relevance", "relevant", "ideal", "preds", "target", "indexes")

    task: Task
    hits_QK: Ints

    @cached_property
    def relevance(self) -> Floats:
        """The grade (Q, K) of each hit."""
        return self.task.gains_of(self.hits_QK)

    def argument(self, name: str, metric: Metric) -> NDArray[Any]:
        """Return the argument of this name for a metric."""
        if name in self._rows:
            return self._rows[name]
        if name != "target":
            return self._pairs[name]
        grade_P = self._pairs["grades"]
        return grade_P if getattr(metric, "allow_non_binary_target", False) else (grade_P > 0).astype(np.int64)

    @cached_property
    def _rows(self) -> dict[str, NDArray[Any]]:
        """The arguments that have a row, or a number, for each query."""
        ideal_QI, _ = self.task.ideal(self.hits_QK.shape[1])
        return {"relevance": self.relevance, "relevant": self.task.relevant(), "ideal": ideal_QI}

    @cached_property
    def _pairs(self) -> dict[str, NDArray[Any]]:
        """The query, a score and the grade (P,) of each pair: of hits, and of relevant documents that are no hits."""
        task, documents = self.task, len(self.task.corpus)
        query_P, rank_P = np.nonzero(self.hits_QK >= 0)
        found = query_P * documents + self.hits_QK[query_P, rank_P]
        is_missed = (task.grades > 0) & ~np.isin(task.keys, found)
        missed_query = np.concatenate([task.keys[is_missed] // documents, task.lost_query])
        missed_grade = np.concatenate([task.grades[is_missed], task.lost_grade])
        last = np.full(len(missed_query), self.hits_QK.shape[1])
        return {
            "indexes": np.concatenate([query_P, missed_query]),
            "preds": 1.0 / (1.0 + np.concatenate([rank_P, last])),
            "grades": np.maximum(np.concatenate([self.relevance[query_P, rank_P], missed_grade]), 0.0),
        }


def example_ranking() -> Ranking:
    """Return a small ranking: of two queries, each with three hits, a relevant one and a missed one."""
    task = Task(
        queries=np.array([5, 6]),
        corpus=np.arange(5),
        keys=np.array([0, 3, 6, 9]),
        grades=np.array([1.0, 2.0, 1.0, 1.0]),
        lost_query=np.zeros(0, np.int64),
        lost_grade=np.zeros(0),
    )
    return Ranking(task, np.array([[1, 0, 2], [1, 2, 3]]))
