"""Items: every distinct text of a data set, stored once and known by its row number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints

ABSENT = -1  # the item number of a text that is not there, as a missing negative


@dataclass(frozen=True)
class Items:
    """The distinct texts, one Arrow `large_string` array; a text's row is its item number."""

    texts: pa.Array

    @classmethod
    def from_columns(cls, columns: Sequence[pa.Array | pa.ChunkedArray]) -> tuple[Items, list[Ints]]:
        """Number the texts of all columns together, in the order in which they first occur.

        Returns the items and, for each column, the item number of each of its rows (int64); null becomes -1.
        """
        together = _one_array(columns)
        encoded = together.dictionary_encode()
        codes = pc.fill_null(encoded.indices, ABSENT).to_numpy(zero_copy_only=False).astype(np.int64)
        ends = np.cumsum([len(column) for column in columns])
        return cls(encoded.dictionary), np.split(codes, ends[:-1])

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Ints) -> list[str]:
        """Return the texts with these item numbers, in this order."""
        texts: list[str] = self.texts.take(pa.array(rows)).to_pylist()
        return texts

    def keep(self, rows: Ints) -> Items:
        """Return only these items, renumbered in this order."""
        return Items(self.texts.take(pa.array(rows)))


def _one_array(columns: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Array:
    chunks: list[pa.Array] = []
    for column in columns:
        chunks += column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    # large_string: 32-bit offsets would overflow at 2 GB of text.
    return pa.chunked_array([chunk.cast(pa.large_string()) for chunk in chunks], pa.large_string()).combine_chunks()
