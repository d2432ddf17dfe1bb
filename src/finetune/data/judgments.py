"""Judgments: which documents of a corpus answer which query, and how well (qrels)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.data.arrays import Ints


@dataclass(frozen=True)
class Judgments:
    """Queries, a corpus, and graded judgments between them, over the items of a data set.

    `queries (Q,)` and `corpus (M,)` are item numbers; a judgment is `query_index (J,)`, `document_index (J,)`
    (places in `queries` and `corpus`) and `grade (J,)`, above 0 for a right answer. A text may be both a query and a
    document: then both have the same item number, so that a search can leave a query's own text out.
    `name` says where the judgments are from.
    """

    name: str
    queries: Ints
    corpus: Ints
    query_index: Ints
    document_index: Ints
    grade: npt.NDArray[np.float64]

    def facts(self) -> dict[str, int | float]:
        """Return the counts that a report shows."""
        queries = len(self.queries)
        right = int((self.grade > 0).sum())
        return {
            "validation_queries": queries,
            "validation_corpus": len(self.corpus),
            "validation_judgments": len(self.grade),
            "right_answers_per_query": round(right / queries, 2) if queries else 0.0,
        }
