"""Doubts as a list that one can fix: each with its texts, its scores, and where its row stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.analysis.label_errors import Doubt, WrongLabel
from finetune.data.arrays import Ints
from finetune.data.dataset import Dataset
from finetune.data.inspect.row_locations import row_locations
from finetune.data.settings import Data
from finetune.report.escaping import one_line

LISTED = 50  # doubts of each kind
_KEPT = 300  # characters of a text

Entry = dict[str, Any]


def pairs_listed(dataset: Dataset, found: Mapping[str, Sequence[Doubt]]) -> list[Entry]:
    """Return doubted pairs by what they are `of` (held-out or training data), at most `LISTED` of each.

    `anchor` and `positive` stand in the row that is in doubt, or beside it; `text` is what the model would rather have.
    """
    doubts = [(part, doubt) for part, some in found.items() for doubt in some[:LISTED]]

    def name(role: str) -> list[str]:
        return dataset.items.named(np.array([getattr(doubt, role) for _, doubt in doubts], np.int64))

    texts = zip(name("query"), name("document"), name("positive"), strict=True)
    return [
        _entry(anchor, text, doubt.score, positive, doubt.positive_score, part)
        for (part, doubt), (anchor, text, positive) in zip(doubts, texts, strict=True)
    ]


def labels_listed(dataset: Dataset, items_N: Ints, found: Sequence[WrongLabel]) -> list[Entry]:
    """Return items with a doubted label in the same shape: `positive` is the label, `text` the class in its stead.

    `items_N` are those that `found` tells the places of; the scores are shares of the neighbours.
    """
    some = found[:LISTED]
    names = dataset.items.named(items_N[[one.place for one in some]] if some else items_N[:0])
    return [
        _entry(name, dataset.labels[one.told], one.told_share, dataset.labels[one.label], one.share, "labels")
        for name, one in zip(names, some, strict=True)
    ]


def _entry(anchor: str, text: str, score: float, positive: str, positive_score: float, of: str) -> Entry:
    return {
        "anchor": anchor,
        "text": text,
        "score": round(score, 4),
        "positive": positive,
        "positive_score": round(positive_score, 4),
        "of": of,
    }


def placed(entries: Sequence[Entry], data: Data) -> list[Entry]:
    """Return the entries with the `place` of the row of anchor and positive, None where it is not found; texts cut.

    All sources are read once more.
    """
    at = row_locations(data, [(entry["anchor"], entry["positive"]) for entry in entries])
    return [
        entry | {role: one_line(entry[role], _KEPT) for role in ("anchor", "text", "positive")} | {"place": place}
        for entry, place in zip(entries, at, strict=True)
    ]
