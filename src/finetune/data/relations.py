"""Relations: which items belong together, as rows of item numbers.

B relations, N items, n negatives of a row, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from finetune.data.arrays import Ints, distinct, flat_ranges
from finetune.data.items import ABSENT


def _no_negatives() -> Ints:
    return np.empty((0, 0), np.int64)


@dataclass(frozen=True)
class Relations:
    """Rows of item numbers: `anchor (B,)`, `positive (B,)`, `negatives (B, n)` with -1 for an absent one."""

    anchor: Ints
    positive: Ints
    negatives: Ints = field(default_factory=_no_negatives)

    def __post_init__(self) -> None:
        if self.negatives.size == 0 and len(self.negatives) != len(self.anchor):
            object.__setattr__(self, "negatives", np.empty((len(self.anchor), 0), np.int64))
        if not len(self.anchor) == len(self.positive) == len(self.negatives):
            raise ValueError("anchor, positive and negatives must have as many rows as each other")

    def __len__(self) -> int:
        return len(self.anchor)

    def take(self, rows: Ints) -> Relations:
        """Return these rows, in this order."""
        return Relations(self.anchor[rows], self.positive[rows], self.negatives[rows])

    def columns(self) -> Ints:
        """Return all item numbers as one table, (B, 2 + n): anchor, positive, negatives."""
        table: Ints = np.column_stack([self.anchor, self.positive, self.negatives])
        return table

    def used_items(self) -> Ints:
        """Return the sorted item numbers that occur in any column."""
        table = self.columns()
        used: Ints = distinct(table[table != ABSENT])
        return used

    def distinct_rows(self) -> Ints:
        """Return the rows that repeat no earlier row, in order."""
        table = self.columns()
        key = np.zeros(len(table), np.int64)
        # Folding column after column into dense keys keeps the sort on plain integers; np.unique(axis=0)
        # compares whole rows as bytes and takes several times as long.
        for column in table.T:
            width = int(column.max(initial=0)) + 2
            key = np.unique(key * width + (column + 1), return_inverse=True)[1].reshape(-1)
        return np.sort(np.unique(key, return_index=True)[1])

    def renumbered(self, used: Ints) -> Relations:
        """Return the same relations over the items `used` (sorted), numbered from 0 in that order."""

        def new(old: Ints) -> Ints:
            renumbered: Ints = np.where(old == ABSENT, ABSENT, np.searchsorted(used, old))
            return renumbered

        return Relations(new(self.anchor), new(self.positive), new(self.negatives))

    def known_positives(self) -> KnownPositives:
        """Return who is whose positive, in both directions, from all rows together."""
        items = int(self.columns().max(initial=ABSENT)) + 1
        apart = self.anchor != self.positive
        left = np.concatenate([self.anchor[apart], self.positive[apart]])
        right = np.concatenate([self.positive[apart], self.anchor[apart]])
        edges = distinct(left * items + right)
        offsets = np.searchsorted(edges, np.arange(items + 1) * items)
        return KnownPositives(offsets.astype(np.int64), edges % items if items else edges)


@dataclass(frozen=True)
class KnownPositives:
    """For every item the sorted items that are right answers to it, as compressed sparse rows.

    The neighbours of item `i` are `neighbours[offsets[i]:offsets[i + 1]]`; symmetric, without repeats or loops.
    """

    offsets: Ints
    neighbours: Ints

    def of(self, items_N: Ints) -> tuple[Ints, Ints]:
        """Return all known positives of these items as (place in `items_N`, item number) pairs, two arrays (E,).

        Items that no relation mentions have none.
        """
        last = len(self.offsets) - 1
        starts = self.offsets[np.minimum(items_N, last)]
        counts = self.offsets[np.minimum(items_N + 1, last)] - starts
        place = np.repeat(np.arange(len(items_N)), counts)
        return place, self.neighbours[flat_ranges(starts, counts)]

    def pairs_within(self, items_N: Ints) -> Ints:
        """Return which of these items are known positives of each other, (E, 2) places in `items_N`.

        `items_N` is sorted and without repeats. Both directions of a pair are listed.
        """
        place, neighbour = self.of(items_N)
        if not len(place):
            return np.empty((0, 2), np.int64)
        found = np.minimum(np.searchsorted(items_N, neighbour), len(items_N) - 1)
        inside = items_N[found] == neighbour
        return np.column_stack([place[inside], found[inside]])
