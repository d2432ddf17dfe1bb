"""Holding out a part of the relations that shares no text with the rest.

R rows (relations), N items, G groups.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from finetune.data.arrays import Ints, distinct
from finetune.data.items import ABSENT
from finetune.data.judgments import Judgments
from finetune.data.known import KnownPositives
from finetune.data.relations import Relations

MAX_QUERIES = 2_000  # a bootstrap over 2,000 queries is narrow enough; more only takes longer, twice a run


class Split(NamedTuple):
    """Rows of the relations to train on and rows held out, and how they were parted."""

    train: Ints
    held: Ints
    by: Literal["group", "anchor", "nothing"]


def hold_out(relations: Relations, fraction: float, seed: int) -> Split:
    """Hold out about `fraction` of the rows, at most 2,000 distinct anchors, whole groups of connected texts.

    Texts are connected if a chain of anchors and positives leads from one to the other, so no held text occurs in
    training as an anchor or a positive. Where more than half of the rows hang together, whole anchors are held out
    instead (`by="anchor"`); where less than one row would be, none is (`by="nothing"`).
    """
    rows = len(relations)
    target = int(fraction * rows)
    nothing = Split(np.arange(rows), np.empty(0, np.int64), "nothing")
    if target < 1:
        return nothing
    group = np.unique(connected(relations.anchor, relations.positive)[relations.anchor], return_inverse=True)[1]
    held = np.zeros(rows, bool)
    by: Literal["group", "anchor"] = "group"
    if np.bincount(group).max() <= rows / 2:
        held = _draw(group, relations.anchor, target, seed)
    if not held.any():
        by, held = "anchor", _draw(_dense(relations.anchor), relations.anchor, target, seed)
    return Split(np.flatnonzero(~held), np.flatnonzero(held), by) if held.any() else nothing


def connected(left: Ints, right: Ints) -> Ints:
    """Return for every item number up to the largest the smallest item it is connected with, (N,).

    Every round hooks each tree's root under its smallest neighbour and flattens the trees (Shiloach and Vishkin
    1982, https://doi.org/10.1016/0196-6774(82)90008-6), which takes about log N rounds.
    """
    label = np.arange(int(max(left.max(initial=-1), right.max(initial=-1))) + 1)
    while True:
        low = np.minimum(label[left], label[right])
        high = np.maximum(label[left], label[right])
        if np.array_equal(low, high):
            return label
        np.minimum.at(label, high, low)
        while not np.array_equal(label, flatter := label[label]):
            label = flatter


def judge(relations: Relations, held: Ints, name: str) -> Judgments:
    """Return judgments for the held rows: their anchors search among the positives of all rows.

    Every known positive of a query that is in the corpus counts as right, whichever row said so.
    """
    queries = distinct(relations.anchor[held])
    corpus = distinct(relations.positive)
    items = int(relations.columns().max(initial=ABSENT)) + 1
    query_index, answer = KnownPositives.of_relations(relations, items).of(queries)
    place = np.minimum(np.searchsorted(corpus, answer), len(corpus) - 1)
    inside = corpus[place] == answer
    query_index, place = query_index[inside], place[inside]
    return Judgments(name, queries, corpus, query_index, place, np.ones(len(place)))


def _dense(codes: Ints) -> Ints:
    return np.unique(codes, return_inverse=True)[1].reshape(-1)


def _draw(group: Ints, anchor: Ints, target: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which rows belong to randomly drawn whole groups, together at most `target` rows and the query limit."""
    rows_G = np.bincount(group)
    owner = np.zeros(int(anchor.max()) + 1, np.int64)
    owner[anchor] = group  # an anchor lies in one group only
    anchors_G = np.bincount(owner[distinct(anchor)], minlength=len(rows_G))
    order = np.random.default_rng(seed).permutation(len(rows_G))
    rows_left, anchors_left = target, MAX_QUERIES
    drawn = np.zeros(len(rows_G), bool)
    # Each round takes groups in order up to the first that does not fit, then drops all that never will.
    while len(order := order[(rows_G[order] <= rows_left) & (anchors_G[order] <= anchors_left)]):
        fits = (np.cumsum(rows_G[order]) <= rows_left) & (np.cumsum(anchors_G[order]) <= anchors_left)
        taken, order = order[fits], order[~fits]
        drawn[taken] = True
        rows_left -= int(rows_G[taken].sum())
        anchors_left -= int(anchors_G[taken].sum())
    return drawn[group]
