"""Embeddings of selected items, recorded while something else has them computed.

Shapes: N items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data.arrays import Ints

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingRecorder:
    """The selected items, ascending, `(N,)`, and their embeddings `(N, D)`, NaN until they are recorded."""

    items: Ints
    emb_ND: Floats

    @classmethod
    def empty(cls, items: Ints, width: int) -> EmbeddingRecorder:
        """Return a recorder of these items, ascending, without any embedding."""
        return cls(items, np.full((len(items), width), np.nan, np.float32))

    def record(self, items: Ints, emb_ND: Floats) -> None:
        """Store those of the embeddings whose items are selected."""
        if not len(self.items):
            return
        row = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        selected = np.flatnonzero(self.items[row] == items)
        self.emb_ND[row[selected]] = emb_ND[selected]

    def missing(self) -> Ints:
        """Return the selected items that have no embedding yet."""
        return self.items[np.isnan(self.emb_ND).any(1)]

    def embeddings(self, items: Ints) -> Floats:
        """Return the recorded embeddings of items, all of which have to be selected."""
        recorded: Floats = self.emb_ND[np.searchsorted(self.items, items)]
        return recorded
