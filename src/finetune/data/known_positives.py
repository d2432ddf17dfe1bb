"""Known positives: which items are positives of each other, from the whole relation graph.

N items, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.data.arrays import Ints, distinct, flat_ranges
from finetune.data.items import ABSENT
from finetune.data.relations import Relations


@dataclass(frozen=True)
class KnownPositives:
    """For every item its known positives, so that no loss pushes them apart.

    `neighbors[offsets[i]:offsets[i + 1]]` are those of item `i`: sorted, symmetric, without repeats or loops.
    `group (N,)`, if there are groups, is more compact: all items of a group (a class, or items that are connected by a
    chain of paraphrases) are positives of each other; -1 is no group.
    """

    offsets: Ints
    neighbors: Ints
    group: Ints | None = None

    @classmethod
    def of_relations(cls, relations: Relations, items: int, group: Ints | None = None) -> KnownPositives:
        """Return the known positives of all rows, in both directions; `items` is the number of items N."""
        return cls.of_pairs(*cls.edges(relations), items, group)

    @staticmethod
    def edges(relations: Relations) -> tuple[Ints, Ints]:
        """Return the positive pairs of all rows: anchors and positives, two arrays (E,)."""
        real = (relations.positive != ABSENT) & (relations.anchor != relations.positive)
        if relations.score is not None:
            # A grade or a similarity of zero or less is no positive pair.
            real &= ~(relations.score[:, 0] <= 0)
        return relations.anchor[real], relations.positive[real]

    @classmethod
    def of_pairs(cls, left: Ints, right: Ints, items: int, group: Ints | None = None) -> KnownPositives:
        """Return the known positives of these pairs of item numbers, in both directions."""
        edges = distinct(np.concatenate([left * items + right, right * items + left]))
        offsets = np.searchsorted(edges, np.arange(items + 1) * items)
        return cls(offsets.astype(np.int64), edges % max(1, items), group)

    def with_pairs(self, left_P: Ints, right_P: Ints) -> KnownPositives:
        """Return the same with more pairs of positives, in both directions."""
        items = max(len(self.offsets) - 1, int(left_P.max(initial=-1)) + 1, int(right_P.max(initial=-1)) + 1)
        before = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        left, right = np.concatenate([before, left_P]), np.concatenate([self.neighbors, right_P])
        return KnownPositives.of_pairs(left, right, items, self.group)

    def of(self, items_N: Ints) -> tuple[Ints, Ints]:
        """Return the neighbors of these items as (index in `items_N`, item number) pairs, two arrays (E,).

        Items without relations have none. Members of the same group are not listed.
        """
        last = len(self.offsets) - 1
        starts = self.offsets[np.minimum(items_N, last)]
        counts = self.offsets[np.minimum(items_N + 1, last)] - starts
        place = np.repeat(np.arange(len(items_N)), counts)
        return place, self.neighbors[flat_ranges(starts, counts)]

    def pairs_within(self, items_N: Ints) -> Ints:
        """Return which of these items are neighbors, (E, 2) indices into `items_N`.

        `items_N` is sorted and without repeats. Both directions of a pair are listed.
        """
        place, neighbor = self.of(items_N)
        if not len(place):
            return np.empty((0, 2), np.int64)
        found = np.minimum(np.searchsorted(items_N, neighbor), len(items_N) - 1)
        inside = items_N[found] == neighbor
        return np.column_stack([place[inside], found[inside]])

    def groups_within(self, items_N: Ints) -> Ints | None:
        """Return the group of each of these items, (N,), a unique number for an item without one.

        None if there are no groups at all.
        """
        if self.group is None:
            return None
        group_N = self.group[items_N]
        alone = group_N < 0
        group_N[alone] = -1 - np.arange(int(alone.sum()))
        return group_N

    def renumbered(self, used: Ints) -> KnownPositives:
        """Return the same for the items `used` only (sorted), numbered from 0 in that order."""
        pairs_E2 = self.pairs_within(used)  # sorted by the first, then the second index
        offsets = np.searchsorted(pairs_E2[:, 0], np.arange(len(used) + 1))
        group = self.group
        if group is not None:
            group = group[used]
        return KnownPositives(offsets.astype(np.int64), np.ascontiguousarray(pairs_E2[:, 1]), group)
