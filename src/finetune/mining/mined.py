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

    `score` and `positive_score` are NaN where the filter compares no scores.
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

    @property
    def short(self) -> int:
        """How many rows have fewer negatives than were asked for."""
        return int((self.negatives == ABSENT).any(axis=1).sum())

    def add_to(self, relations: Relations) -> Relations:
        """Return the relations with these negatives after those that they have, and a new row for each new positive.

        Relations with scores (of a teacher) get those of the mined negatives only if they have none of their own.
        """
        negatives = np.concatenate([relations.negatives, self.negatives], axis=1)
        return replace(relations, negatives=negatives)

    def facts(self, items: Items) -> dict[str, Any]:
        """Return everything that a report says, JSON-serializable, with the texts of the examples."""
        return {}  # STUB
