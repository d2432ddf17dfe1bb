"""Which rows are held out of training, and the evaluation data that is made of them."""

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
UNJUDGED: tuple[Layout, ...] = ("scored pairs", "texts")  # these have no right answers for a search
CONNECTED = (
    "Most rows are connected through shared texts, so anchors were held out, but their positives may occur in training "
    "too."
)
HELD_OUT = "a held-out part of the file"
NOTHING = "Nothing to evaluate on"  # how the note begins that no row is held out


class Parts(NamedTuple):
    """Rows to train on, and the evaluation data held out of them."""

    train: Relations
    judgments: Judgments | None = None
    pairs: ScoredPairs | None = None
    labelled: LabelledItems | None = None


def hold_out_fraction(relations: Relations, prepared: Prepared, fraction: float, seed: int) -> tuple[Parts, list[str]]:
    """Hold out about `fraction` of the rows; returns what is trained on and held out, and notes for the user."""
    trained = np.ones(len(relations), bool)
    judged = _judged_rows(relations, prepared)
    scored = np.flatnonzero(of_layouts(relations, prepared, ("scored pairs",)))
    if not len(judged) and not len(scored):
        what = prepared.layouts[0]
        return Parts(relations), [f"Nothing is held out to evaluate on: {what} do not say what a search should find."]
    judgments, labelled, notes = _hold_out_judged(relations, judged, trained, prepared, fraction, seed)
    pairs, pair_notes = _hold_out_scored(relations, scored, trained, prepared, fraction, seed)
    if judgments is None and pairs is None:
        return Parts(relations), [f"{NOTHING}: {fraction:g} of {len(relations)} pairs is too little."]
    return Parts(relations.take(np.flatnonzero(trained)), judgments, pairs, labelled), [*notes, *pair_notes]


def _hold_out_judged(
    relations: Relations, judged: Ints, trained: Bools, prepared: Prepared, fraction: float, seed: int
) -> tuple[Judgments | None, LabelledItems | None, list[str]]:
    """Hold out a part of the rows with right answers; the rows that are not trained on become False in `trained`."""
    if not len(judged):
        return None, None, []
    candidates = relations.take(judged)
    split = hold_out(candidates, fraction, seed, prepared.component)
    if split.by == "nothing":
        return None, None, []
    judgments = judge(candidates, split, HELD_OUT, prepared.known)
    trained[judged[split.held]] = False
    notes = _split_notes(split, judgments)
    # Rows that cannot be held out (for example labelled items of another source) may contain the same queries.
    others = np.setdiff1d(np.arange(len(relations)), judged)
    with_queries = others[np.isin(relations.anchor[others], judgments.queries)]
    trained[with_queries] = False
    count = len(with_queries)
    if count:
        notes.append(f"{count:,} {rows_were(count)} left out of training: what they hold is asked for.")
    return judgments, _labelled(candidates, split), notes


def _labelled(candidates: Relations, split: Split) -> LabelledItems | None:
    """Return held-out items with those a classifier may learn from: the training items, or half of each new class."""
    if split.by == "member":
        known = np.zeros(len(candidates), bool)
        known[split.train] = True
        return labelled_items(candidates, HELD_OUT, known)
    if split.by == "class":
        return labelled_items(candidates.take(split.held), HELD_OUT)
    return None


def _hold_out_scored(
    relations: Relations, scored: Ints, trained: Bools, prepared: Prepared, fraction: float, seed: int
) -> tuple[ScoredPairs | None, list[str]]:
    """Hold out a part of the scored pairs."""
    if not len(scored):
        return None, []
    candidates = relations.take(scored)
    split = hold_out(candidates, fraction, seed, prepared.component)
    if split.by == "nothing":
        return None, []
    trained[scored[split.held]] = False
    notes = [f"Held out of training: {len(split.held):,} scored pairs."]
    if split.by == "anchor":
        notes.append(CONNECTED)
    return scored_pairs(candidates.take(split.held), HELD_OUT), notes


def _judged_rows(relations: Relations, prepared: Prepared) -> Ints:
    """Return the rows with right answers for a search: of pairs if there are any, else of labelled items."""
    rows = np.flatnonzero(~of_layouts(relations, prepared, UNJUDGED))
    paired = relations.positive[rows] != ABSENT
    if paired.any():
        rows = rows[paired]
    return rows


def _split_notes(split: Split, judgments: Judgments) -> list[str]:
    queries, documents = len(judgments.queries), len(judgments.corpus)
    held, found = "anchors", "positives"
    if split.by == "class":
        held, found = "items of whole classes", "items"
    elif split.by == "member":
        held, found = "items", "items"
    notes = [f"Held out of training: {queries:,} {held}, found among {documents:,} {found}."]
    if split.by == "anchor":
        notes.append(CONNECTED)
    if queries < FEW_QUERIES:
        notes.append(f"Only {queries} validation {'query' if queries == 1 else 'queries'}: the figures will be rough.")
    if queries == MAX_QUERIES and split.by in ("group", "anchor"):
        notes.append(f"{MAX_QUERIES:,} held-out anchors are enough; all other pairs are trained on.")
    return notes


def rows_were(count: int) -> str:
    """Return subject and verb of a sentence about so many rows."""
    if count == 1:
        return "row was"
    return "rows were"
