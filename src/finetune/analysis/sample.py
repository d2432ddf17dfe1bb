"""Which of the items and pairs of a data set are looked at before and after: few, and always the same ones.

N items, P pairs, Q queries, J judgments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.data.arrays import Ints, distinct
from finetune.data.dataset import Dataset
from finetune.data.holdout.eval_data import LabelledItems, ScoredPairs
from finetune.data.holdout.judgments import Judgments
from finetune.data.items import ABSENT
from finetune.data.relations import Relations

PAIRS = 2000  # held-out pairs whose similarities are looked at, of right ones and of wrong ones each
MAPPED = 1000  # items of the map
TRAINED = 1000  # training pairs that are looked at for wrong ones
LABELLED = 2000  # items of classes that are looked at for wrong ones


@dataclass(frozen=True)
class HeldOutSample:
    """Pairs that are held out, as items: `right (P, 2)` and `wrong (P, 2)`, and the items of the map, `mapped (N,)`."""

    right: Ints
    wrong: Ints
    mapped: Ints

    def items(self) -> Ints:
        """Return all of them, ascending."""
        return distinct(np.concatenate([self.right.ravel(), self.wrong.ravel(), self.mapped]))


def sample_held_out(dataset: Dataset) -> HeldOutSample | None:
    """Return what is looked at of what is held out; None where nothing is.

    With judgments, pairs are queries and right documents, and the same queries with documents drawn from the corpus
    that nothing calls right. Of scored pairs those count as right whose score is in the upper half of the scale.
    """
    if dataset.validation is not None:
        return _of_judgments(dataset.validation, dataset)
    return _of_scored(dataset.pairs) if dataset.pairs is not None else None


def _of_judgments(judged: Judgments, dataset: Dataset) -> HeldOutSample | None:
    right_J = np.flatnonzero(judged.grade > 0)
    if not len(right_J):
        return None
    drawn = right_J[sample_rows(len(right_J), PAIRS)]
    query_P, document_P = judged.query_index[drawn], judged.document_index[drawn]
    right_P2 = np.column_stack([judged.queries[query_P], judged.corpus[document_P]])
    other_P = np.random.default_rng(1).integers(0, len(judged.corpus), len(drawn))
    keys = judged.query_index[right_J] * len(judged.corpus) + judged.document_index[right_J]
    wrong_P2 = np.column_stack([judged.queries[query_P], judged.corpus[other_P]])
    wrong = ~np.isin(query_P * len(judged.corpus) + other_P, keys) & (wrong_P2[:, 0] != wrong_P2[:, 1])
    wrong[wrong] = ~are_known_positives(dataset, *wrong_P2[wrong].T)
    mapped = judged.corpus[sample_rows(len(judged.corpus), MAPPED)]
    return HeldOutSample(right_P2, wrong_P2[wrong], distinct(mapped))


def _of_scored(pairs: ScoredPairs) -> HeldOutSample:
    rows = sample_rows(len(pairs.score), 2 * PAIRS)
    both_P2, score_P = np.column_stack([pairs.left, pairs.right])[rows], pairs.score[rows]
    is_right = score_P > (score_P.min() + score_P.max()) / 2
    items = distinct(both_P2.ravel())
    return HeldOutSample(both_P2[is_right], both_P2[~is_right], items[sample_rows(len(items), MAPPED)])


def sample_training_pairs(train: Relations, length_N: Ints, tokens: int) -> Ints:
    """Return the rows of some training pairs, at most `TRAINED` and of about as many tokens as `tokens`.

    `length_N` is what it costs to embed an item, in tokens.
    """
    # Where a score says how right a pair is, a low similarity need not be wrong.
    paired = train.positive != ABSENT
    paired &= True if train.score is None else np.isnan(train.score[:, 0])
    rows = np.flatnonzero(paired)
    rows = rows[np.random.default_rng(0).permutation(len(rows))[:TRAINED]]
    spent = np.cumsum(length_N[train.anchor[rows]] + length_N[train.positive[rows]])
    return np.sort(rows[spent <= tokens])


def sample_labeled_items(dataset: Dataset) -> LabelledItems | None:
    """Return some items with their classes, those that are held out first; None where there are no classes."""
    found = [(one.items, one.label) for one in [dataset.labelled] if one is not None]
    train = dataset.train
    if train.label is not None:
        rows = np.flatnonzero(train.label != ABSENT)
        found.append((train.anchor[rows], train.label[rows]))
    if not found:
        return None
    items, label = (np.concatenate(parts) for parts in zip(*found, strict=True))
    first = np.sort(np.unique(items, return_index=True)[1])
    if len(first) > LABELLED:
        first = first[sample_rows(len(first), LABELLED)]
    return LabelledItems("", items[first], label[first], np.ones(len(first), bool)) if len(first) else None


def are_known_positives(dataset: Dataset, left_P: Ints, right_P: Ints) -> Ints:
    """Return which pairs of items the data calls right anywhere, (P,)."""
    known = dataset.known
    place, neighbour = known.of(left_P)
    found = np.zeros(len(left_P), bool)
    found[place[neighbour == right_P[place]]] = True
    if known.group is not None:
        found |= (known.group[left_P] == known.group[right_P]) & (known.group[left_P] != ABSENT)
    return found


def sample_rows(count: int, most: int) -> Ints:
    """Return the places of at most `most` of `count`, ascending, always the same ones."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
