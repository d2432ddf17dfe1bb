"""Which rows are held out of training, and what they can be evaluated by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from finetune.data.arrays import Ints
from finetune.data.holdout.eval_data import LabelledItems, ScoredPairs, labelled_items, of_layouts, scored_pairs
from finetune.data.holdout.judgments import Judgments
from finetune.data.holdout.split import MAX_QUERIES, Split, hold_out, judge
from finetune.data.items import ABSENT
from finetune.data.prepared import Prepared
from finetune.data.relations import Bools, Relations
from finetune.data.schema.layouts import Layout

FEW_QUERIES = 20
UNJUDGED: tuple[Layout, ...] = ("scored pairs", "texts")  # nothing in them says what a search should find
CONNECTED = (
    "Most rows are connected through shared texts, so anchors were held out, but their positives may occur in training "
    "too."
)
HELD = "a held-out part of the file"


class Parts(NamedTuple):
    """Rows to train on, and what is held out of them."""

    train: Relations
    judgments: Judgments | None = None
    pairs: ScoredPairs | None = None
    labelled: LabelledItems | None = None


def hold_out_part(relations: Relations, prepared: Prepared, fraction: float, seed: int) -> tuple[Parts, list[str]]:
    """Hold out about `fraction` of the rows: returns what is trained on and held out, and what is to be said."""
    trained = np.ones(len(relations), bool)
    asked = _can_be_held_out(relations, prepared)
    scored = np.flatnonzero(of_layouts(relations, prepared, ("scored pairs",)))
    if not len(asked) and not len(scored):
        what = prepared.layouts[0]
        return Parts(relations), [f"Nothing is held out to evaluate on: {what} do not say what a search should find."]
    judgments, labelled, notes = _hold_judged(relations, asked, trained, prepared, fraction, seed)
    pairs, said = _hold_scored(relations, scored, trained, prepared, fraction, seed)
    if judgments is None and pairs is None:
        return Parts(relations), [f"Nothing to evaluate on: {fraction:g} of {len(relations)} pairs is too little."]
    return Parts(relations.take(np.flatnonzero(trained)), judgments, pairs, labelled), [*notes, *said]


def _hold_judged(
    relations: Relations, asked: Ints, trained: Bools, prepared: Prepared, fraction: float, seed: int
) -> tuple[Judgments | None, LabelledItems | None, list[str]]:
    """Hold out a part of the rows that say what a search should find; what is not trained on is marked in `trained`."""
    candidates = relations.take(asked)
    split = hold_out(candidates, fraction, seed, prepared.component) if len(asked) else None
    if split is None or split.by == "nothing":
        return None, None, []
    judgments = judge(candidates, split, HELD, prepared.known)
    trained[asked[split.held]] = False
    notes = _split_notes(split, judgments)
    # What could not be held out (the labelled items of another source, say) may be asked for all the same.
    others = np.setdiff1d(np.arange(len(relations)), asked)
    asked_too = others[np.isin(relations.anchor[others], judgments.queries)]
    trained[asked_too] = False
    if len(asked_too):
        notes.append(
            f"{len(asked_too):,} {were_rows(len(asked_too))} left out of training: what they hold is asked for."
        )
    return judgments, _labelled(candidates, split), notes


def _labelled(candidates: Relations, split: Split) -> LabelledItems | None:
    """Return held-out items with what may be known of their classes: the training items, or half of the new classes."""
    if split.by == "member":
        known = np.zeros(len(candidates), bool)
        known[split.train] = True
        return labelled_items(candidates, HELD, known)
    return labelled_items(candidates.take(split.held), HELD) if split.by == "class" else None


def _hold_scored(
    relations: Relations, scored: Ints, trained: Bools, prepared: Prepared, fraction: float, seed: int
) -> tuple[ScoredPairs | None, list[str]]:
    """Hold out a part of the scored pairs."""
    candidates = relations.take(scored)
    split = hold_out(candidates, fraction, seed, prepared.component) if len(scored) else None
    if split is None or split.by == "nothing":
        return None, []
    trained[scored[split.held]] = False
    notes = [f"Held out of training: {len(split.held):,} scored pairs."]
    if split.by == "anchor":
        notes.append(CONNECTED)
    return scored_pairs(candidates.take(split.held), HELD), notes


def _can_be_held_out(relations: Relations, prepared: Prepared) -> Ints:
    """Return the rows that say what a search should find: of pairs if there are any, else of labelled items."""
    rows = np.flatnonzero(~of_layouts(relations, prepared, UNJUDGED))
    paired = relations.positive[rows] != ABSENT
    return rows[paired] if paired.any() else rows


def _split_notes(split: Split, judgments: Judgments) -> list[str]:
    queries, documents = len(judgments.queries), len(judgments.corpus)
    held, found = {"class": ("items of whole classes", "items"), "member": ("items", "items")}.get(
        split.by, ("anchors", "positives")
    )
    notes = [f"Held out of training: {queries:,} {held}, found among {documents:,} {found}."]
    if split.by == "anchor":
        notes.append(CONNECTED)
    if queries < FEW_QUERIES:
        notes.append(f"Only {queries} validation {'query' if queries == 1 else 'queries'}: the figures will be rough.")
    if queries == MAX_QUERIES and split.by in ("group", "anchor"):
        notes.append(f"{MAX_QUERIES:,} held-out anchors are enough; all other pairs are trained on.")
    return notes


def were_rows(count: int) -> str:
    """Return how a sentence about so many rows begins."""
    return "row was" if count == 1 else "rows were"
