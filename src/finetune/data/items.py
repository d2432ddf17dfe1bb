"""Items: every distinct thing of a data set that can be encoded, stored once and known by its row number.

Item numbers run through the parts: first all texts, then all images, then meshes, then vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints

ABSENT = -1  # the item number of a text that is not there, as a missing negative

Modality = Literal["text", "image", "mesh", "vector"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
PLURALS: dict[Modality, str] = {"text": "texts", "image": "images", "mesh": "meshes", "vector": "vectors"}

# What Arrow can number directly; anything else (a struct, a list of floats) is numbered by a key of its own.
STORED = {
    "text": pa.large_string(),
    "image": pa.large_string(),  # where it is: a path, or a data: URI that holds it
    "mesh": pa.large_binary(),  # float32 coordinates x y z of the sampled points, one after the other
    "vector": pa.large_binary(),  # float32 numbers, one after the other
}


@dataclass(frozen=True)
class Part:
    """The distinct items of one modality, as Arrow stores them (`STORED`)."""

    modality: Modality
    values: pa.Array


@dataclass(frozen=True)
class Items:
    """The distinct items, a part for each modality in the order of `MODALITIES`; texts are always the first part."""

    parts: tuple[Part, ...]

    @classmethod
    def from_columns(
        cls, columns: Sequence[pa.Array | pa.ChunkedArray], modalities: Sequence[Modality] | None = None
    ) -> tuple[Items, list[Ints]]:
        """Number the values of all columns together, per modality in the order in which they first occur.

        `columns` are of the types in `STORED`; without `modalities` all are texts. Returns the items and, for each
        column, the item number of each of its rows (int64); null becomes -1.
        """
        modalities = modalities or ["text"] * len(columns)
        parts, codes = [], [np.empty(0, np.int64)] * len(columns)
        first = 0
        for modality in MODALITIES:
            mine = [i for i, other in enumerate(modalities) if other == modality]
            if not mine and modality != "text":
                continue
            values, numbered = _number([columns[i] for i in mine], modality)
            for i, code in zip(mine, numbered, strict=True):
                codes[i] = np.where(code == ABSENT, ABSENT, code + first) if first else code
            parts.append(Part(modality, values))
            first += len(values)
        return cls(tuple(parts)), codes

    @classmethod
    def of_texts(cls, texts: pa.Array) -> Items:
        """Return items that are these distinct texts."""
        return cls((Part("text", texts),))

    def __len__(self) -> int:
        return sum(len(part.values) for part in self.parts)

    @property
    def texts(self) -> pa.Array:
        """The texts, items 0 to `len(texts) - 1`."""
        return self.parts[0].values

    def take(self, rows: Ints) -> list[str]:
        """Return the items with these numbers, in this order, as text that a person can read."""
        shown = np.empty(len(rows), dtype=object)
        first = 0
        for part in self.parts:
            inside = np.flatnonzero((rows >= first) & (rows < first + len(part.values)))
            values = part.values.take(pa.array(rows[inside] - first)).to_pylist()
            shown[inside] = [describe(part.modality, value) for value in values]
            first += len(part.values)
        return list(shown)

    def named(self, rows: Ints) -> list[str]:
        """Return the items as `take` does, but what has neither text nor path by its number, from 1, as `image 12`."""
        shown, first = self.take(rows), len(self.texts)
        for part in self.parts[1:]:
            for place in np.flatnonzero((rows >= first) & (rows < first + len(part.values))):
                number = int(rows[place]) - first
                value = part.values[number].as_py()
                if not isinstance(value, str):
                    shown[place] = f"{part.modality} {number + 1} ({shown[place]})"
                elif value.startswith("data:"):
                    shown[place] = f"{part.modality} {number + 1}"
            first += len(part.values)
        return shown

    def keep(self, rows: Ints) -> Items:
        """Return only these items (ascending numbers), renumbered in this order."""
        parts, first = [], 0
        for part in self.parts:
            low, high = np.searchsorted(rows, [first, first + len(part.values)])
            parts.append(Part(part.modality, part.values.take(pa.array(rows[low:high] - first))))
            first += len(part.values)
        return Items(tuple(parts))


def describe(modality: Modality, value: str | bytes) -> str:
    """Return a stored value as text for a person: a text as it is, numbers by how many there are."""
    if isinstance(value, str):
        return value if modality == "text" or not value.startswith("data:") else f"{value[:40]}…"
    floats = len(value) // 4
    return f"{floats // 3} points" if modality == "mesh" else f"{floats} numbers"


def _number(columns: Sequence[pa.Array | pa.ChunkedArray], modality: Modality) -> tuple[pa.Array, list[Ints]]:
    """Return the distinct values of all columns, and the place of each row's value among them."""
    stored = STORED[modality]
    chunks: list[pa.Array] = []
    for column in columns:
        chunks += column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    # Chunk by chunk, never joined: the texts of a large file would be copied whole.
    encoded = pa.chunked_array([chunk.cast(stored) for chunk in chunks], stored).dictionary_encode()
    if not encoded.num_chunks:
        return pa.array([], stored), [np.empty(0, np.int64)] * len(columns)
    # Arrow grows one dictionary over all chunks; the last chunk has all of it.
    values = encoded.chunk(encoded.num_chunks - 1).dictionary
    together = np.empty(len(encoded), np.int64)
    start = 0
    for chunk in encoded.chunks:
        indices = chunk.indices if chunk.null_count == 0 else pc.fill_null(chunk.indices, ABSENT)
        together[start : start + len(chunk)] = indices.to_numpy(zero_copy_only=False)
        start += len(chunk)
    ends = np.cumsum([len(column) for column in columns])
    return values, np.split(together, ends[:-1])
