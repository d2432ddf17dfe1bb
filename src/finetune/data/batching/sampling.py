"""Plans of one pass over the rows of a source: the rows of each batch, for a whole pass at a time.

R rows (relations), K batches of a pass, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Protocol

import numpy as np

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.items import ABSENT
from finetune.data.relations import Bools, Relations

# Rows that share an item with their batch are tried in others, until this many rounds in a row place next to none.
_FRUITLESS_ROUNDS = 3
# Rows that are searched for repeated items at once: the arrays to sort then fit in the CPU cache.
_ROWS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Plan:
    """Rows in the order of a pass; batch `k` is `rows[bounds[k]:bounds[k + 1]]`.

    `ends`, of labelled rows, is the end of each group of one class, whose members are pairs within a batch.
    """

    rows: Ints
    bounds: Ints
    ends: Ints | None = None

    def batch(self, k: int) -> Ints:
        """Return the rows of one batch."""
        return self.rows[self.bounds[k] : self.bounds[k + 1]]

    def move_cut(self, index: int) -> int:
        """Return the index at or after `index` where the rows can be cut without leaving one of a group alone."""
        if self.ends is None or index in (0, len(self.rows)):
            return index
        group = int(np.searchsorted(self.ends, index))
        start, end = 0, int(self.ends[group])
        if group > 0:
            start = int(self.ends[group - 1])
        cut = index + (index - start) % 2  # even sizes: two cuts of one group never leave one row between them
        if cut > end - 2:
            return end
        return cut


class Sampler(Protocol):
    """Plans passes over a source; every pass has as many batches."""

    batches: int

    def plan(self, random: np.random.Generator) -> Plan:
        """Return the plan of one pass, which depends on `random` alone."""


def number_of_batches(rows: int, batch_size: int) -> int:
    """Return how many batches of at most `batch_size` rows there are, but none of a single row; 0 of no rows.

    A single pair has no negatives: it is added to another batch even if that exceeds the size by one.
    """
    return max(min(1, rows), min(ceil(rows / batch_size), rows // 2))


class Shuffled:
    """Every row once, in random order, in as few batches as possible, which differ by at most one row.

    A small last batch would have few negatives and a noisy gradient.
    """

    def __init__(self, rows: int, batch_size: int) -> None:
        self.rows = rows
        self.batches = number_of_batches(rows, batch_size)

    def plan(self, random: np.random.Generator) -> Plan:
        """Return a random order."""
        return Plan(random.permutation(self.rows), even_bounds(self.rows, self.batches))


class Unique(Shuffled):
    """As `Shuffled`, but no item is in two rows of a batch.

    Rows that fit in no batch (for example of an item in more rows than there are batches) are left out of this pass;
    in the next pass it is other rows. Known positives need no such handling: no loss takes them as negatives.
    """

    def __init__(self, relations: Relations, batch_size: int) -> None:
        super().__init__(len(relations), batch_size)
        self._columns = relations.columns()
        self._items = int(self._columns.max(initial=0)) + 1
        self._most = ceil(len(relations) / max(1, self.batches))

    def plan(self, random: np.random.Generator) -> Plan:
        """Return a random order, in which rows that share an item with their batch were moved to another."""
        order = random.permutation(self.rows)
        batch_R = np.repeat(np.arange(self.batches), np.diff(even_bounds(self.rows, self.batches)))
        keys, stays = self._first_of_each(order, batch_R)
        taken = [keys]
        placed = [(order[stays], batch_R[stays])]
        waiting = order[~stays]
        free_K = self._most - np.bincount(batch_R[stays], minlength=self.batches)
        fruitless = 0
        while len(waiting) and fruitless < _FRUITLESS_ROUNDS:
            rows, batch, waiting, keys = self._try(waiting, free_K, taken, random)
            fruitless += 1
            if len(rows) * 10_000 > self.rows:
                fruitless = 0
            placed.append((rows, batch))
            taken = _merged(taken, keys)
            free_K = free_K - np.bincount(batch, minlength=self.batches)
        rows_P, batch_P = (np.concatenate(parts) for parts in zip(*placed, strict=True))
        by_batch = np.argsort(batch_P, kind="stable")
        counts = np.bincount(batch_P, minlength=self.batches)
        return Plan(rows_P[by_batch], np.concatenate([[0], np.cumsum(counts)]))

    def _first_of_each(self, order: Ints, batch_R: Ints) -> tuple[Ints, Bools]:
        """Return the result of `_without_repeats` for all rows in batch order, some batches at a time."""
        at_once = max(1, _ROWS_AT_ONCE // self._most)
        edges = even_bounds(self.rows, self.batches)[::at_once].tolist()
        if edges[-1] < self.rows:
            edges.append(self.rows)
        parts = [self._without_repeats(order[low:high], batch_R[low:high]) for low, high in pairwise(edges)]
        return np.concatenate([keys for keys, _ in parts]), np.concatenate([stays for _, stays in parts])

    def _try(
        self, waiting: Ints, free_K: Ints, taken: list[Ints], random: np.random.Generator
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """Put waiting rows into random free slots; returns those that fit, their batches, the rest, and the keys."""
        slots = random.permutation(np.repeat(np.arange(self.batches), free_K))[: len(waiting)]
        waiting = random.permutation(waiting)
        tried, rest = waiting[: len(slots)], waiting[len(slots) :]
        fits = np.ones(len(tried), bool)
        for column in self._keys(tried, slots).T:
            # Sorted queries make a binary search use the CPU cache.
            order = np.argsort(column)
            sought = column[order]
            for found in taken:
                at = np.minimum(np.searchsorted(found, sought), len(found) - 1)
                fits[order[(sought >= 0) & (found[at] == sought)]] = False
        rows, batch = tried[fits], slots[fits]
        keys, stays = self._without_repeats(rows, batch)
        waiting = np.concatenate([rest, tried[~fits], rows[~stays]])
        return rows[stays], batch[stays], waiting, keys

    def _without_repeats(self, rows: Ints, batch: Ints) -> tuple[Ints, Bools]:
        """Return the sorted keys of the rows that stay, and which rows stay: the first of each item in a batch."""
        first = int(batch.min(initial=self.batches))
        table = self._keys(rows, batch - first)
        index = np.broadcast_to(np.arange(len(rows))[:, None], table.shape)
        real = table >= 0
        key, row = _sorted_pairs(table[real], index[real], (self.batches - first) * self._items)
        repeats = (key[1:] == key[:-1]) & (row[1:] != row[:-1])
        stays = np.ones(len(rows), bool)
        stays[row[1:][repeats]] = False
        return key[stays[row]] + first * self._items, stays

    def _keys(self, rows: Ints, batch: Ints) -> Ints:
        """Return a number for each (batch, item) of these rows, -1 for an absent item."""
        table = self._columns[rows]
        keys: Ints = np.where(table == ABSENT, -1, batch[:, None] * self._items + table)
        return keys


def _sorted_pairs(key: Ints, index: Ints, bound: int) -> tuple[Ints, Ints]:
    """Return the pairs of keys below `bound` and indices, sorted."""
    bits = int(index.max(initial=0)).bit_length()
    if bound.bit_length() + bits > 62:
        order = np.lexsort((index, key))
        return key[order], index[order]
    # Both packed in one number: several times as fast as sorting indices by keys.
    packed = np.sort((key << bits) | index)
    return packed >> bits, packed & ((1 << bits) - 1)


def _merged(taken: list[Ints], keys: Ints) -> list[Ints]:
    """Return the sorted arrays with another one; small ones are joined, so that there are few to search."""
    while len(taken) > 1 and len(taken[-1]) < 4 * len(keys):
        keys = np.sort(np.concatenate([taken.pop(), keys]))
    if len(keys):
        return [*taken, keys]
    return taken


class ByClass:
    """Labelled rows: every batch has several classes with about `items_per_class` members each, which become pairs.

    Every row is in one batch of a pass; every class must have at least two rows. The groups of one class are spread
    over the pass as evenly as possible, batches have about equal size, and no group is split.
    """

    def __init__(self, label_R: Ints, batch_size: int, items_per_class: int) -> None:
        self.label_R = label_R
        # A batch of a single class has no negatives.
        self.items_per_class = max(2, min(items_per_class, batch_size // 2))
        counts_C = np.bincount(label_R)
        self._counts_C = counts_C[counts_C > 0]
        # As near to `items_per_class` as possible: a much larger group would fill a batch and have no negatives.
        wanted_C = np.rint(self._counts_C / self.items_per_class).astype(np.int64)
        self._groups_C = np.maximum(1, np.minimum(wanted_C, self._counts_C // 2))  # at least two members in each group
        self.batches = min(ceil(len(label_R) / batch_size), int(self._groups_C.sum()))

    def plan(self, random: np.random.Generator) -> Plan:
        """Return a random order of random groups."""
        shuffled = random.permutation(len(self.label_R))
        rows = shuffled[np.argsort(self.label_R[shuffled], kind="stable")]
        counts_C, groups_C = self._counts_C, self._groups_C
        of_class = np.repeat(np.arange(len(counts_C)), groups_C)
        rank = np.arange(len(of_class)) - np.repeat(np.cumsum(groups_C) - groups_C, groups_C)
        sizes_G = counts_C[of_class] // groups_C[of_class] + (rank < counts_C[of_class] % groups_C[of_class])
        starts_G = np.cumsum(sizes_G) - sizes_G
        # Equal steps from a random start, cyclic over the whole pass.
        when_G = (random.random(len(counts_C))[of_class] + rank / groups_C[of_class]) % 1.0
        order = np.argsort(when_G, kind="stable")
        ends = np.cumsum(sizes_G[order])
        return Plan(rows[flat_ranges(starts_G[order], sizes_G[order])], self._bounds(ends), ends)

    def _bounds(self, ends: Ints) -> Ints:
        """Return the bounds of the batches, (K + 1,): at ends of groups, as near as possible to equal sizes."""
        batch = np.arange(self.batches - 1)
        wanted = (batch + 1) * len(self.label_R) / self.batches
        at = np.searchsorted(ends, wanted)
        at -= (at > 0) & (wanted - ends[at - 1] < ends[at] - wanted)
        # A group that is larger than a batch would be the end of several: each batch has at least one group.
        at = np.maximum.accumulate(at - batch) + batch
        at = np.minimum(at, len(ends) - self.batches + batch)
        return np.concatenate([[0], ends[at], ends[-1:]])


def pairs_within_classes(label_B: Ints, item_B: Ints) -> tuple[Ints, Ints]:
    """Return pairs of a batch's labelled items, (rows, items): each row with the next other item of its class, cyclic.

    Rows whose class has no other item in the batch are in no pair.
    """
    order = np.lexsort((item_B, label_B))
    label, item = label_B[order], item_B[order]
    first = np.ones(len(label), bool)
    first[1:] = label[1:] != label[:-1]
    group = np.cumsum(first) - 1
    start = np.flatnonzero(first)
    end = np.append(start[1:], len(label))
    following = np.where(np.arange(len(label)) + 1 == end[group], start[group], np.arange(len(label)) + 1)
    apart = item[following] != item
    return order[apart], item[following][apart]


def even_bounds(rows: int, batches: int) -> Ints:
    """Return the bounds of batches of equal size up to one row, (K + 1,)."""
    return np.linspace(0, rows, batches + 1).astype(np.int64)
