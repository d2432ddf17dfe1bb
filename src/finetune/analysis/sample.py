"""The fixed random samples of items and pairs that are analyzed before and after training.

N items, P pairs, J judgments.
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
from finetune.evaluation.evaluator import sample_rows

PAIRS = 2000  # held-out pairs for the similarities, right and wrong ones each
MAPPED = 1000  # items of the map
TRAINED = 1000  # training pairs that are searched for wrong ones
LABELLED = 2000  # labeled items that are searched for wrong labels


@dataclass(frozen=True)
class HeldOutSample:
    """Held-out pairs as items, `right (P, 2)` and `wrong (P, 2)`, and the items of the map, `mapped (N,)`."""

    right: Ints
    wrong: Ints
    mapped: Ints

    def items(self) -> Ints:
        """Return all these items, each once, ascending."""
        return distinct(np.concatenate([self.right.ravel(), self.wrong.ravel(), self.mapped]))


def sample_held_out(dataset: Dataset) -> HeldOutSample | None:
    """Return the sample of the held-out data; None if there is none.

    With judgments, right pairs are queries with their right documents, and wrong pairs the same queries with random
    documents of the corpus that are not known to be right. Scored pairs are right if their score is in the upper half
    of its range.
    """
    if dataset.validation is not None:
        return _sample_judgments(dataset.validation, dataset)
    if dataset.pairs is not None:
        return _sample_scored_pairs(dataset.pairs)
    return None


def _sample_judgments(judged: Judgments, dataset: Dataset) -> HeldOutSample | None:
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


def _sample_scored_pairs(pairs: ScoredPairs) -> HeldOutSample:
    rows = sample_rows(len(pairs.score), 2 * PAIRS)
    both_P2, score_P = np.column_stack([pairs.left, pairs.right])[rows], pairs.score[rows]
    is_right = score_P > (score_P.min() + score_P.max()) / 2
    items = distinct(both_P2.ravel())
    return HeldOutSample(both_P2[is_right], both_P2[~is_right], items[sample_rows(len(items), MAPPED)])


def sample_training_pairs(train: Relations, length_N: Ints, tokens: int) -> Ints:
    """Return the rows of a sample of the training pairs, at most `TRAINED` and with at most `tokens` tokens in total.

    `length_N` is the cost of embedding an item, in tokens.
    """
    is_pair = train.positive != ABSENT
    if train.score is not None:
        # The similarity of a pair with a graded score may be low although the pair is right.
        is_pair &= np.isnan(train.score[:, 0])
    rows = np.flatnonzero(is_pair)
    rows = rows[np.random.default_rng(0).permutation(len(rows))[:TRAINED]]
    spent = np.cumsum(length_N[train.anchor[rows]] + length_N[train.positive[rows]])
    return np.sort(rows[spent <= tokens])


def sample_labeled_items(dataset: Dataset) -> LabelledItems | None:
    """Return a sample of items with their classes, from held-out and training data; None without any classes.

    An item that is in both has its class of the held-out data.
    """
    items, labels = [], []
    if dataset.labelled is not None:
        items.append(dataset.labelled.items)
        labels.append(dataset.labelled.label)
    train = dataset.train
    if train.label is not None:
        rows = np.flatnonzero(train.label != ABSENT)
        items.append(train.anchor[rows])
        labels.append(train.label[rows])
    if not items:
        return None
    item_N, label_N = np.concatenate(items), np.concatenate(labels)
    _, first_N = np.unique(item_N, return_index=True)
    first_N = np.sort(first_N)
    if not len(first_N):
        return None
    first_N = first_N[sample_rows(len(first_N), LABELLED)]
    return LabelledItems("", item_N[first_N], label_N[first_N], np.ones(len(first_N), bool))


def are_known_positives(dataset: Dataset, left_P: Ints, right_P: Ints) -> Ints:
    """Return which pairs of items are marked right anywhere in the data, (P,)."""
    known = dataset.known
    place, neighbour = known.of(left_P)
    found = np.zeros(len(left_P), bool)
    found[place[neighbour == right_P[place]]] = True
    if known.group is not None:
        found |= (known.group[left_P] == known.group[right_P]) & (known.group[left_P] != ABSENT)
    return found
