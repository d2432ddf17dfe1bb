"""Judgments: which documents of a corpus answer which query, and how well (qrels)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from finetune.data.arrays import Ints

Grades = npt.NDArray[np.float64]


def _none() -> Ints:
    return np.empty(0, np.int64)


def _no_grades() -> Grades:
    return np.empty(0, np.float64)


@dataclass(frozen=True)
class Judgments:
    """Queries, a corpus, and graded judgments between them, over the items of a data set.

    `queries (Q,)` and `corpus (M,)` are item numbers; a judgment is `query_index (J,)`, `document_index (J,)`
    (indices into `queries` and `corpus`) and `grade (J,)`, above 0 for a right answer. A text may be both a query and a
    document: then both have the same item number, so that a search can leave a query's own text out.
    `name` is where the judgments are from. `lost_query (L,)` and `lost_grade (L,)` are right answers, above 0, that
    are not in the corpus: they are never found, but count among the right answers of a query, as in trec_eval.
    """

    name: str
    queries: Ints
    corpus: Ints
    query_index: Ints
    document_index: Ints
    grade: Grades
    lost_query: Ints = field(default_factory=_none)
    lost_grade: Grades = field(default_factory=_no_grades)

    def counts(self) -> str:
        """Return how much there is to evaluate on, in words."""
        queries, documents = len(self.queries), len(self.corpus)
        return f"{queries:,} {'query' if queries == 1 else 'queries'}, {documents:,} documents"

    def facts(self) -> dict[str, int | float]:
        """Return the counts that a report shows."""
        queries = len(self.queries)
        right = int((self.grade > 0).sum()) + len(self.lost_query)
        facts: dict[str, int | float] = {
            "validation_queries": queries,
            "validation_corpus": len(self.corpus),
            "validation_judgments": len(self.grade),
            "right_answers_per_query": round(right / queries, 2) if queries else 0.0,
        }
        if len(self.lost_query):
            facts["right_answers_not_in_the_corpus"] = len(self.lost_query)
        return facts
