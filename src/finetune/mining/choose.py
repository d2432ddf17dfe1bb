"""Chooses the negatives of rows among their candidates.

Cheap filters look at all candidates. Near duplicates and the judge, which compare texts, only at those that would be
taken; each one that they leave out is replaced by the next.

Shapes: B rows (of one block), K candidates of a row, n negatives of a row, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data.arrays import Ints
from finetune.data.holdout.text_normalization import Bools
from finetune.data.items import ABSENT, Items
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.mining.equal_texts import RightPairs, equal_texts
from finetune.mining.filters import Tally, is_in_ranks, passes_thresholds
from finetune.mining.judge import PairJudge
from finetune.mining.mined import Mined
from finetune.mining.near_texts import NearTexts
from finetune.mining.retriever import Floats
from finetune.mining.settings import Mining

Numbers = NDArray[np.uint64]


class Candidates(NamedTuple):
    """The candidates of some `rows (B,)`: `items (B, K)` by rank, -1 for none, their `scores`, and the positives'."""

    rows: Ints
    items: Ints
    scores: Floats
    positive_scores: Floats


class Chooser:
    """Collects the negatives of all rows of some relations, block by block."""

    def __init__(
        self,
        relations: Relations,
        items: Items,
        known: KnownPositives,
        settings: Mining,
        seed: int,
        prompts: Sequence[str],
        judge: PairJudge | None,
    ) -> None:
        self._relations, self._known, self._settings, self._seed, self._judge = relations, known, settings, seed, judge
        self._right = RightPairs(known, equal_texts(items, prompts))
        self._near = NearTexts(items.texts, prompts) if settings.near_duplicates else None
        self._tally = Tally(len(relations))
        self._negatives = np.full((len(relations), settings.count), ABSENT)
        self._scores = np.full((len(relations), 1 + settings.count), np.nan, np.float32)
        self._relabelled = [np.empty((0, 2), np.int64)]

    def choose(self, found: Candidates) -> None:
        """Choose the negatives of some rows; each row has to be chosen for once."""
        alive_BK = self._passed(found)
        order_BK = np.argsort(self._order(found, alive_BK), axis=1, kind="stable")
        ordered = Candidates(
            found.rows,
            np.take_along_axis(found.items, order_BK, 1),
            np.take_along_axis(found.scores, order_BK, 1),
            found.positive_scores,
        )
        taken_BK, ordered = self._taken(ordered, np.take_along_axis(alive_BK, order_BK, 1))
        self._store(ordered, taken_BK, order_BK)

    def mined(self) -> Mined:
        """Return everything that was chosen."""
        relabelled = np.unique(np.concatenate(self._relabelled), axis=0)
        return Mined(self._negatives, self._scores, self._tally.filtered(), relabelled)

    def _passed(self, found: Candidates) -> Bools:
        """Return which candidates pass all filters that need no text."""
        anchor_B1 = self._relations.anchor[found.rows][:, None]
        alive_BK = is_in_ranks(found.items, self._settings.first_rank)
        tests = {
            "anchor_itself": ~self._right.is_equal(anchor_B1, found.items),
            "known_positives": ~self._right.among(anchor_B1, found.items),
            "given_negatives": ~_is_in(found.items, self._relations.negatives[found.rows]),
            **passes_thresholds(found.scores, found.positive_scores, self._settings),
        }
        for name, passed_BK in tests.items():
            self._leave_out(name, alive_BK & ~passed_BK, found)
            alive_BK &= passed_BK
        return alive_BK

    def _order(self, found: Candidates, alive_BK: Bools) -> Numbers:
        """Return numbers by which the candidates are taken, the smallest first, and those left out last."""
        if self._settings.pick == "top":
            key_BK = np.broadcast_to(np.arange(found.items.shape[1], dtype=np.uint64), found.items.shape)
        else:
            key_BK = _random(self._seed, found.rows[:, None], found.items) >> np.uint64(1)
        return np.where(alive_BK, key_BK, np.iinfo(np.uint64).max)

    def _taken(self, found: Candidates, alive_BK: Bools) -> tuple[Bools, Candidates]:
        """Return which candidates are taken; with a judge that gives scores, these replace the scores of the taken."""
        scores_BK, checked_BK = found.scores, np.zeros_like(alive_BK)
        while True:
            taken_BK = alive_BK & (np.cumsum(alive_BK, axis=1) <= self._settings.count)
            new_BK = taken_BK & ~checked_BK
            if not new_BK.any() or (self._near is None and self._judge is None):
                return taken_BK, found._replace(scores=scores_BK)
            checked_BK |= new_BK
            if self._near is not None:
                near_BK = self._near_duplicates(found, new_BK, self._near)
                self._leave_out("near_duplicates", near_BK, found)
                alive_BK, new_BK = alive_BK & ~near_BK, new_BK & ~near_BK
            if self._judge is not None:
                right_BK, scores_BK = self._judged(found, new_BK, scores_BK, self._judge)
                self._leave_out("judge", right_BK, found._replace(scores=scores_BK))
                alive_BK = alive_BK & ~right_BK

    def _near_duplicates(self, found: Candidates, new_BK: Bools, near: NearTexts) -> Bools:
        """Return which of the new candidates hardly differ from the anchor or a positive of it."""
        row_P, place_P = np.nonzero(new_BK)
        anchor_P, document_P = self._relations.anchor[found.rows[row_P]], found.items[row_P, place_P]
        of, positive = self._known.of(anchor_P)
        pairs = np.concatenate([np.arange(len(row_P)), np.arange(len(row_P)), of])
        targets = [anchor_P, self._relations.positive[found.rows[row_P]], positive]
        is_near = near.among(document_P[pairs], np.concatenate(targets))
        near_BK = np.zeros_like(new_BK)
        hit = np.unique(pairs[is_near])
        near_BK[row_P[hit], place_P[hit]] = True
        return near_BK

    def _judged(self, found: Candidates, new_BK: Bools, scores_BK: Floats, judge: PairJudge) -> tuple[Bools, Floats]:
        """Return which of the new candidates the judge finds right, and all scores with those of the judge."""
        row_P, place_P = np.nonzero(new_BK)
        anchor_P, document_P = self._relations.anchor[found.rows[row_P]], found.items[row_P, place_P]
        score_P = _of_distinct(judge, anchor_P, document_P)
        right_P = score_P >= self._settings.judge.threshold
        right_BK = np.zeros_like(new_BK)
        right_BK[row_P, place_P] = right_P
        if self._settings.judge.relabel:
            self._relabelled.append(np.column_stack([anchor_P[right_P], document_P[right_P]]))
        if judge.gives_scores:
            scores_BK = scores_BK.copy()
            scores_BK[row_P, place_P] = score_P
        return right_BK, scores_BK

    def _leave_out(self, name: str, left_out_BK: Bools, found: Candidates) -> None:
        anchor_B, positive_B = self._relations.anchor[found.rows], self._relations.positive[found.rows]
        self._tally.add(
            name, left_out_BK, found.rows, anchor_B, positive_B, found.items, found.scores, found.positive_scores
        )

    def _store(self, found: Candidates, taken_BK: Bools, rank_BK: Ints) -> None:
        """Write the taken candidates into the tables, those of the first ranks first."""
        last = rank_BK.shape[1]
        place_Bn = np.argsort(np.where(taken_BK, rank_BK, last), axis=1, kind="stable")[:, : self._settings.count]
        is_taken_Bn = np.take_along_axis(taken_BK, place_Bn, 1)
        items_Bn = np.where(is_taken_Bn, np.take_along_axis(found.items, place_Bn, 1), ABSENT)
        scores_Bn = np.where(is_taken_Bn, np.take_along_axis(found.scores, place_Bn, 1), np.float32(np.nan))
        width = items_Bn.shape[1]
        self._negatives[found.rows, :width] = items_Bn
        self._scores[found.rows, 1 : 1 + width] = scores_Bn
        self._scores[found.rows, 0] = found.positive_scores
        if self._judge is not None and self._judge.gives_scores:
            anchor_B, positive_B = self._relations.anchor[found.rows], self._relations.positive[found.rows]
            self._scores[found.rows, 0] = _of_distinct(self._judge, anchor_B, positive_B)


def _is_in(items_BK: Ints, others_Bn: Ints) -> Bools:
    """Return which items are among the others of their row, `(B, K)`."""
    found = np.zeros(items_BK.shape, bool)
    for other_B in others_Bn.T:
        found |= items_BK == other_B[:, None]
    return found


def _of_distinct(judge: PairJudge, anchor_P: Ints, document_P: Ints) -> Floats:
    """Return the score of each pair, each distinct pair judged once."""
    pairs_U2, inverse_P = np.unique(np.column_stack([anchor_P, document_P]), axis=0, return_inverse=True)
    if not len(pairs_U2):
        return np.empty(0, np.float32)
    return judge.score(pairs_U2[:, 0], pairs_U2[:, 1])[inverse_P.reshape(-1)]


def _random(seed: int, row: Ints, item: Ints) -> Numbers:
    """Return a number without any pattern for each row and item, whatever other rows there are (SplitMix64)."""
    state = np.uint64(seed) + _mixed(row.astype(np.uint64)) + item.astype(np.uint64)
    return _mixed(_mixed(state))


def _mixed(state: Numbers) -> Numbers:
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Numbers = state ^ (state >> np.uint64(31))
        return mixed
