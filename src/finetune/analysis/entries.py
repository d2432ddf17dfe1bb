"""Suspect rows of the data as entries of the report: each with its texts, its scores, and the location of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.analysis.label_errors import SuspectPair, WrongLabel
from finetune.data.arrays import Ints
from finetune.data.dataset import Dataset
from finetune.data.inspect.row_locations import row_locations
from finetune.data.settings import Data
from finetune.report.escaping import one_line

LISTED = 50  # entries of each kind
_MAX_TEXT = 300  # characters of a text

Entry = dict[str, Any]


def suspect_pair_entries(dataset: Dataset, found: Mapping[str, Sequence[SuspectPair]]) -> list[Entry]:
    """Return entries for suspect pairs, at most `LISTED` for each key of `found`: held-out or training data.

    `anchor` and `positive` are the texts of the suspect row, or of the row with the same query; `text` is the document
    that the model prefers.
    """
    entries = []
    for part, pairs in found.items():
        for pair in pairs[:LISTED]:
            anchor, text, positive = dataset.items.named(np.array([pair.query, pair.document, pair.positive], np.int64))
            entries.append(_entry(anchor, text, pair.score, positive, pair.positive_score, part))
    return entries


def suspect_label_entries(dataset: Dataset, items_N: Ints, found: Sequence[WrongLabel]) -> list[Entry]:
    """Return entries for items with a suspect label: `positive` is their label, `text` the class suggested instead.

    The places of `found` are those in `items_N`; the scores are fractions of the neighbors.
    """
    labels, entries = dataset.labels, []
    for wrong in found[:LISTED]:
        (name,) = dataset.items.named(items_N[[wrong.place]])
        suggested, label = labels[wrong.suggested], labels[wrong.label]
        entries.append(_entry(name, suggested, wrong.suggested_share, label, wrong.share, "labels"))
    return entries


def _entry(anchor: str, text: str, score: float, positive: str, positive_score: float, of: str) -> Entry:
    return {
        "anchor": anchor,
        "text": text,
        "score": round(score, 4),
        "positive": positive,
        "positive_score": round(positive_score, 4),
        "of": of,
    }


def locate_entries(entries: Sequence[Entry], data: Data) -> list[Entry]:
    """Return the entries with the `place` of the row of anchor and positive, None if not found, and truncated texts.

    Reads all sources again.
    """
    located = row_locations(data, [(entry["anchor"], entry["positive"]) for entry in entries])
    result = []
    for entry, place in zip(entries, located, strict=True):
        texts = {role: one_line(entry[role], _MAX_TEXT) for role in ("anchor", "text", "positive")}
        result.append(entry | texts | {"place": place})
    return result
