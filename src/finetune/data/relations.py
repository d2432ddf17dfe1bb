"""Relations: which items belong together, as rows of item numbers.

B relations, N items, n negatives of a row, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from finetune.data.arrays import Ints, distinct
from finetune.data.items import ABSENT

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def _no_negatives() -> Ints:
    return np.empty((0, 0), np.int64)


@dataclass(frozen=True)
class Relations:
    """Rows of item numbers: `anchor (B,)`, `positive (B,)`, `negatives (B, n)`; -1 for a missing item.

    Every layout becomes this table. Optional columns, None if absent: `score (B, 1 + n)` of the positive and of each
    negative (a similarity, a grade, a teacher's score; NaN for an absent item), `label (B,)` the class of the anchor
    (labelled rows have no positive), `weight (B,)` the weight of the row, `source (B,)` the index of its source, if
    there are several.
    """

    anchor: Ints
    positive: Ints
    negatives: Ints = field(default_factory=_no_negatives)
    score: Floats | None = None
    label: Ints | None = None
    weight: Floats | None = None
    source: Ints | None = None

    def __post_init__(self) -> None:
        if self.negatives.size == 0 and len(self.negatives) != len(self.anchor):
            object.__setattr__(self, "negatives", np.empty((len(self.anchor), 0), np.int64))
        lengths = {len(column) for column in self._present().values()}
        if len(lengths) != 1:
            raise ValueError(f"all columns must have as many rows as each other, not {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.anchor)

    def _present(self) -> dict[str, npt.NDArray[np.generic]]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def take(self, rows: Ints | Bools | slice) -> Relations:
        """Return these rows, in this order."""
        return Relations(**{name: column[rows] for name, column in self._present().items()})  # type: ignore[arg-type]

    def with_negatives(self, negatives_Bn: Ints) -> Relations:
        """Return the same rows with more negatives, `(B, n)`, -1 for none; if rows have scores, theirs is 0."""
        score = self.score
        if score is not None:
            added_Bn = np.where(negatives_Bn == ABSENT, np.float32(np.nan), np.float32(0))
            score = np.column_stack([score, added_Bn])
        return replace(self, negatives=np.column_stack([self.negatives, negatives_Bn]), score=score)

    def columns(self) -> Ints:
        """Return all item numbers as one table, (B, 2 + n): anchor, positive, negatives."""
        table: Ints = np.column_stack([self.anchor, self.positive, self.negatives])
        return table

    def used_items(self) -> Ints:
        """Return the sorted item numbers that occur in any column."""
        used: Ints = distinct(np.concatenate([self.anchor, self.positive, self.negatives.ravel()]))
        if len(used) and used[0] == ABSENT:
            return used[1:]
        return used

    def distinct_rows(self) -> Ints:
        """Return the rows that are no duplicate of an earlier row, in order; score and label are compared too."""
        columns = [self.anchor, self.positive, *self.negatives.T]
        if self.label is not None:
            columns.append(self.label)
        if self.score is not None:  # compared bitwise, so that NaN equals NaN
            columns += [bits.astype(np.int64) & 0xFFFFFFFF for bits in self.score.view(np.uint32).T]
        if self.source is not None:
            columns.append(self.source)
        return _first_of_equal(columns)

    def renumbered(self, used: Ints) -> Relations:
        """Return the same relations over the items `used` (sorted), numbered from 0 in that order."""

        def new(old: Ints) -> Ints:
            renumbered: Ints = np.where(old == ABSENT, ABSENT, np.searchsorted(used, old))
            return renumbered

        return replace(self, anchor=new(self.anchor), positive=new(self.positive), negatives=new(self.negatives))


def _first_of_equal(columns: list[Ints]) -> Ints:
    """Return the rows, ascending, that differ from every earlier row in some column."""
    key = np.zeros(len(columns[0]), np.int64)
    reach = 1  # keys are below this
    for column in columns:
        low = int(column.min(initial=0))
        width = int(column.max(initial=0)) - low + 1
        if reach * width >= 2**62:
            # Combining the columns one by one into dense keys keeps the sort on plain integers; np.unique(axis=0)
            # compares whole rows as bytes and takes several times as long.
            values, key = np.unique(key, return_inverse=True)
            key, reach = key.reshape(-1), len(values)
        key, reach = key * width + (column - low), reach * width
    ordered = np.argsort(key, kind="stable")
    first = np.ones(len(key), bool)
    first[1:] = key[ordered[1:]] != key[ordered[:-1]]
    return np.sort(ordered[first])
