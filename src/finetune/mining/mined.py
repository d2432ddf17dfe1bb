"""What was mined: negatives of each row, and what each filter left out.

Shapes: B rows, n negatives of a row, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Relations
from finetune.mining.retriever import Floats

SHOWN = 10  # examples of each filter


@dataclass(frozen=True)
class Example:
    """A candidate that a filter left out: item numbers of the row and of the document, and the scores compared.

    The scores are those that were compared, also where the filter looks at something else.
    """

    anchor: int
    positive: int
    document: int
    score: float
    positive_score: float


@dataclass(frozen=True)
class Filtered:
    """What one filter left out: how many candidates, in how many rows, and up to `SHOWN` examples."""

    candidates: int = 0
    rows: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Mined:
    """The negatives of each row of some relations.

    `negatives (B, n)` are item numbers, the best first, -1 where there are fewer. `scores (B, 1 + n)` are those of the
    positive and of each negative, NaN where there is none; those of a judge that is a cross-encoder, else of the first
    model among the retrievers, else of BM25. `filtered` says what each filter left out, by its name. `relabelled
    (P, 2)` are pairs of an anchor and a document that a judge found right.
    """

    negatives: Ints
    scores: Floats
    filtered: Mapping[str, Filtered] = field(default_factory=dict)
    relabelled: Ints = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @classmethod
    def without_scores(cls, negatives_Bn: Ints) -> Mined:
        """Return negatives that are known only by themselves, as those of a file."""
        rows, count = negatives_Bn.shape
        return cls(negatives_Bn, np.full((rows, 1 + count), np.nan, np.float32))

    @property
    def short(self) -> int:
        """How many rows have fewer negatives than were asked for, also those without a positive."""
        return int((self.negatives == ABSENT).any(axis=1).sum())

    def add_to(self, relations: Relations, *, scored: bool = False) -> Relations:
        """Return the relations with these negatives after their own, and then a row for each relabelled pair.

        With `scored` the scores of the result are those of the mining, for losses that learn from scores: only if the
        relations have no negatives yet. Otherwise relations that have scores get NaN for the new negatives. A new row
        is as the first one of its anchor, with its negatives.
        """
        negatives = np.concatenate([relations.negatives, self.negatives], axis=1)
        score = relations.score
        if scored and not relations.negatives.shape[1]:
            score = self.scores
        elif score is not None:
            unknown = np.full(self.negatives.shape, np.nan, np.float32)
            score = np.concatenate([score, unknown], axis=1)
        whole = replace(relations, negatives=negatives, score=score)
        anchors, first = np.unique(relations.anchor, return_index=True)
        rows = first[np.searchsorted(anchors, self.relabelled[:, 0])]
        return _with_positives(whole, rows, self.relabelled[:, 1])

    def facts(self, items: Items) -> dict[str, Any]:
        """Return everything that a report says, JSON-serializable, with the texts of the examples."""
        return {
            "rows": len(self.negatives),
            "negatives": int((self.negatives != ABSENT).sum()),
            "short_rows": self.short,
            "relabelled": len(self.relabelled),
            "filtered": {name: _facts(filtered, items) for name, filtered in self.filtered.items()},
        }


def _with_positives(relations: Relations, rows: Ints, positive: Ints) -> Relations:
    """Return the relations, and then copies of rows with other positives, whose scores are unknown."""
    if not len(rows):
        return relations
    both = relations.take(np.concatenate([np.arange(len(relations)), rows]))
    positives = both.positive.copy()
    positives[len(relations) :] = positive
    score = both.score
    if score is not None:
        score = score.copy()
        score[len(relations) :, 0] = np.nan
    return replace(both, positive=positives, score=score)


def _facts(filtered: Filtered, items: Items) -> dict[str, Any]:
    columns = ("anchor", "positive", "document")
    numbers = np.array([[getattr(each, name) for name in columns] for each in filtered.examples], np.int64)
    shown = items.named(numbers.ravel())
    examples = []
    for i, each in enumerate(filtered.examples):
        texts = dict(zip(columns, shown[3 * i : 3 * i + 3], strict=True))
        examples.append({**texts, "score": each.score, "positive_score": each.positive_score})
    return {"candidates": filtered.candidates, "rows": filtered.rows, "examples": examples}
