"""Known positives: who is right for whom, from the whole relation graph.

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
    """For every item the items that are right answers to it, so that no loss pushes them apart.

    `neighbours[offsets[i]:offsets[i + 1]]` are those of item `i`: sorted, symmetric, without repeats or loops.
    `group (N,)`, where there are groups, says more in less room: all items of a group are positives of each other
    (a class, or all that hang together by a chain of paraphrases); -1 is no group.
    """

    offsets: Ints
    neighbours: Ints
    group: Ints | None = None

    @classmethod
    def of_relations(cls, relations: Relations, items: int, group: Ints | None = None) -> KnownPositives:
        """Return who is whose positive, in both directions, from all rows together; `items` is their number N."""
        return cls.of_pairs(*cls.edges(relations), items, group)

    @staticmethod
    def edges(relations: Relations) -> tuple[Ints, Ints]:
        """Return the pairs that rows say are right: anchors and positives, two arrays (E,)."""
        real = (relations.positive != ABSENT) & (relations.anchor != relations.positive)
        if relations.score is not None:
            # A grade or a similarity of zero or less says that the two do not belong together.
            real &= ~(relations.score[:, 0] <= 0)
        return relations.anchor[real], relations.positive[real]

    @classmethod
    def of_pairs(cls, left: Ints, right: Ints, items: int, group: Ints | None = None) -> KnownPositives:
        """Return the known positives of these pairs of item numbers, in both directions."""
        edges = distinct(np.concatenate([left * items + right, right * items + left]))
        offsets = np.searchsorted(edges, np.arange(items + 1) * items)
        return cls(offsets.astype(np.int64), edges % items if items else edges, group)

    def of(self, items_N: Ints) -> tuple[Ints, Ints]:
        """Return the neighbours of these items as (place in `items_N`, item number) pairs, two arrays (E,).

        Items that no relation mentions have none. Members of the same group are not listed.
        """
        last = len(self.offsets) - 1
        starts = self.offsets[np.minimum(items_N, last)]
        counts = self.offsets[np.minimum(items_N + 1, last)] - starts
        place = np.repeat(np.arange(len(items_N)), counts)
        return place, self.neighbours[flat_ranges(starts, counts)]

    def pairs_within(self, items_N: Ints) -> Ints:
        """Return which of these items are neighbours, (E, 2) places in `items_N`.

        `items_N` is sorted and without repeats. Both directions of a pair are listed.
        """
        place, neighbour = self.of(items_N)
        if not len(place):
            return np.empty((0, 2), np.int64)
        found = np.minimum(np.searchsorted(items_N, neighbour), len(items_N) - 1)
        inside = items_N[found] == neighbour
        return np.column_stack([place[inside], found[inside]])

    def groups_within(self, items_N: Ints) -> Ints | None:
        """Return the group of each of these items, (N,), a number of its own for an item without one.

        None where there are no groups at all.
        """
        if self.group is None:
            return None
        group_N = self.group[items_N]
        alone = group_N < 0
        group_N[alone] = -1 - np.arange(int(alone.sum()))
        return group_N

    def renumbered(self, used: Ints) -> KnownPositives:
        """Return the same for the items `used` only (sorted), numbered from 0 in that order."""
        pairs_E2 = self.pairs_within(used)  # sorted by the first, then the second place
        offsets = np.searchsorted(pairs_E2[:, 0], np.arange(len(used) + 1))
        return KnownPositives(
            offsets.astype(np.int64),
            np.ascontiguousarray(pairs_E2[:, 1]),
            None if self.group is None else self.group[used],
        )
