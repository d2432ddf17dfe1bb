"""Holding out a part of the relations that shares no item with the rest.

R rows (relations), N items, G groups.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from finetune.data.arrays import Ints, distinct, flat_ranges
from finetune.data.holdout.judgments import Judgments
from finetune.data.items import ABSENT
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Bools, Relations

MAX_QUERIES = 2_000  # gives a narrow bootstrap interval; more only takes longer, twice a run
MANY_CLASSES = 100  # from here on whole classes are held out: the question is whether new classes are separated
MAX_JUDGMENTS = 5_000_000  # of labelled items: all members of a class are positives of each other


class Split(NamedTuple):
    """Rows of the relations to train on and rows held out, and the unit by which they were split."""

    train: Ints
    held: Ints
    by: Literal["group", "anchor", "class", "member", "nothing"]


def hold_out(relations: Relations, fraction: float, seed: int, component: Ints | None = None) -> Split:
    """Hold out about `fraction` of the rows, at most 2,000 distinct anchors, whole groups of connected items.

    Items are connected if a chain of anchors and positives leads from one to the other (`component (N,)`, computed
    here if it is not given), so no held-out item occurs in training as an anchor or a positive. Where more than half
    of the rows are connected, whole anchors are held out instead (`by="anchor"`). Of labelled items whole classes are
    held out if there are many (`by="class"`), else members of every class (`by="member"`). A fraction of less than one
    row holds out nothing (`by="nothing"`).
    """
    rows = len(relations)
    target = int(fraction * rows)
    nothing = Split(np.arange(rows), np.empty(0, np.int64), "nothing")
    if target < 1:
        return nothing
    by: Literal["group", "anchor", "class", "member"] = "group"
    if relations.label is not None and (relations.positive == ABSENT).all():
        by, group = "member", relations.anchor
        if len(distinct(relations.label)) >= MANY_CLASSES:
            by, group = "class", relations.label
        held = _draw(_dense(group), relations.anchor, target, seed)
    else:
        by, held = _hold_out_pairs(relations, target, seed, component)
    if not held.any():
        return nothing
    return Split(np.flatnonzero(~held), np.flatnonzero(held), by)


def _hold_out_pairs(
    relations: Relations, target: int, seed: int, component: Ints | None
) -> tuple[Literal["group", "anchor"], Bools]:
    if component is None:
        component = connected(relations.anchor, relations.positive)
    group = _dense(component[relations.anchor])
    held = np.zeros(len(relations), bool)
    if np.bincount(group).max() <= len(relations) / 2:
        held = _draw(group, relations.anchor, target, seed)
    if held.any():
        return "group", held
    return "anchor", _draw(_dense(relations.anchor), relations.anchor, target, seed)


def connected(left: Ints, right: Ints) -> Ints:
    """Return for every item number up to the largest the smallest item that it is connected with, (N,).

    Every round hooks each tree's root under its smallest neighbor and flattens the trees (Shiloach and Vishkin
    1982, https://doi.org/10.1016/0196-6774(82)90008-6), which takes about log N rounds.
    """
    label = np.arange(int(max(left.max(initial=-1), right.max(initial=-1))) + 1)
    while True:
        low = np.minimum(label[left], label[right])
        high = np.maximum(label[left], label[right])
        if np.array_equal(low, high):
            return label
        np.minimum.at(label, high, low)
        label = _flattened(label)


def _flattened(parent: Ints) -> Ints:
    """Return the root of every tree node; a root is its own parent."""
    while True:
        grandparent = parent[parent]
        if np.array_equal(parent, grandparent):
            return parent
        parent = grandparent


def judge(relations: Relations, split: Split, name: str, known: KnownPositives) -> Judgments:
    """Return judgments for the held rows: their anchors search among the positives of all rows.

    Every known positive of a query that is in the corpus counts as right, whichever row it is from. Labelled items
    search among all labelled items, those of held-out classes among their own.
    """
    queries = distinct(relations.anchor[split.held])
    if split.by == "class":
        corpus = queries
    elif split.by == "member":
        corpus = distinct(relations.anchor)
    else:
        corpus = distinct(relations.positive)
    if known.group is not None:
        corpus = _limit_groups(corpus, known.group[corpus], len(queries))
    pair = np.concatenate([_neighbors_in(corpus, queries, known), _same_group_in(corpus, queries, known)])
    keys = distinct(pair[:, 0] * len(corpus) + pair[:, 1])
    query_index, document_index = np.divmod(keys, len(corpus))
    return Judgments(name, queries, corpus, query_index, document_index, np.ones(len(keys)))


def _neighbors_in(corpus: Ints, queries: Ints, known: KnownPositives) -> Ints:
    """Return the right answers that are neighbors, (E, 2): index of the query, index in the corpus."""
    query_index, answer = known.of(queries)
    place = np.minimum(np.searchsorted(corpus, answer), len(corpus) - 1)
    inside = corpus[place] == answer
    return np.column_stack([query_index[inside], place[inside]])


def _same_group_in(corpus: Ints, queries: Ints, known: KnownPositives) -> Ints:
    """Return the other items of a query's group, (E, 2): index of the query, index in the corpus."""
    if known.group is None:
        return np.empty((0, 2), np.int64)
    order = np.argsort(known.group[corpus], kind="stable")
    group_M, group_Q = known.group[corpus][order], known.group[queries]
    starts = np.searchsorted(group_M, group_Q)
    counts = np.where(group_Q == ABSENT, 0, np.searchsorted(group_M, group_Q, side="right") - starts)
    pair = np.column_stack([np.repeat(np.arange(len(queries)), counts), order[flat_ranges(starts, counts)]])
    others: Ints = pair[queries[pair[:, 0]] != corpus[pair[:, 1]]]
    return others


def _limit_groups(corpus: Ints, group: Ints, queries: int) -> Ints:
    """Return the corpus with its largest groups cut, so that there are at most about `MAX_JUDGMENTS` judgments."""
    order = np.argsort(group, kind="stable")
    _, counts = np.unique(group, return_counts=True)
    rank = np.arange(len(corpus)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = (rank < max(2, MAX_JUDGMENTS // max(1, queries))) | (group[order] == ABSENT)
    return np.sort(corpus[order[kept]])


def _dense(codes: Ints) -> Ints:
    """Return the codes renumbered from 0 without gaps."""
    return np.unique(codes, return_inverse=True)[1].reshape(-1)


def _draw(group: Ints, anchor: Ints, target: int, seed: int) -> Bools:
    """Return which rows belong to randomly drawn whole groups, together at most `target` rows and the query limit."""
    rows_G = np.bincount(group)
    owner = np.zeros(int(anchor.max()) + 1, np.int64)
    owner[anchor] = group  # an anchor belongs to one group only
    anchors_G = np.bincount(owner[distinct(anchor)], minlength=len(rows_G))
    order = np.random.default_rng(seed).permutation(len(rows_G))
    rows_left, anchors_left = target, MAX_QUERIES
    drawn = np.zeros(len(rows_G), bool)
    # Each round takes groups in order up to the first that does not fit, then drops all that can no longer fit.
    while True:
        order = order[(rows_G[order] <= rows_left) & (anchors_G[order] <= anchors_left)]
        if not len(order):
            return drawn[group]
        fits = (np.cumsum(rows_G[order]) <= rows_left) & (np.cumsum(anchors_G[order]) <= anchors_left)
        taken, order = order[fits], order[~fits]
        drawn[taken] = True
        rows_left -= int(rows_G[taken].sum())
        anchors_left -= int(anchors_G[taken].sum())
