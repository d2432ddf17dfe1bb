"""Items: everything in a data set that can be encoded, each distinct value stored once and identified by a number.

Item numbers continue over the parts: first all texts, then all images, then meshes, then vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints

ABSENT = -1  # the item number of a missing item, such as a missing negative

Modality = Literal["text", "image", "mesh", "vector"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
PLURALS: dict[Modality, str] = {"text": "texts", "image": "images", "mesh": "meshes", "vector": "vectors"}

# Types that Arrow can number directly; other values (a struct, a list of floats) are numbered by a key.
STORED = {
    "text": pa.large_string(),
    "image": pa.large_string(),  # a path, or a data: URI with the content
    "mesh": pa.large_binary(),  # float32 coordinates x y z of the sampled points, concatenated
    "vector": pa.large_binary(),  # float32 numbers
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
        """Number the values of all columns together, per modality in the order of their first occurrence.

        `columns` are of the types in `STORED`; without `modalities` all are texts. Returns the items and, for each
        column, the item number of each of its rows (int64); null becomes -1.
        """
        modalities = modalities or ["text"] * len(columns)
        parts, codes = [], [np.empty(0, np.int64)] * len(columns)
        first = 0
        for modality in MODALITIES:
            indices = [i for i, other in enumerate(modalities) if other == modality]
            if not indices and modality != "text":
                continue
            values, numbered = _number([columns[i] for i in indices], modality)
            for i, code in zip(indices, numbered, strict=True):
                if first:
                    code = np.where(code == ABSENT, ABSENT, code + first)  # noqa: PLW2901
                codes[i] = code
            parts.append(Part(modality, values))
            first += len(values)
        return cls(tuple(parts)), codes

    @classmethod
    def of_texts(cls, texts: pa.Array) -> Items:
        """Return these distinct texts as items."""
        return cls((Part("text", texts),))

    def __len__(self) -> int:
        return sum(len(part.values) for part in self.parts)

    @property
    def texts(self) -> pa.Array:
        """The texts, items 0 to `len(texts) - 1`."""
        return self.parts[0].values

    def take(self, rows: Ints) -> list[str]:
        """Return the items with these numbers, in this order, as readable text."""
        shown = np.empty(len(rows), dtype=object)
        first = 0
        for part in self.parts:
            inside = np.flatnonzero((rows >= first) & (rows < first + len(part.values)))
            values = part.values.take(pa.array(rows[inside] - first)).to_pylist()
            shown[inside] = [describe(part.modality, value) for value in values]
            first += len(part.values)
        return list(shown)

    def named(self, rows: Ints) -> list[str]:
        """Return the items as `take` does, but those with neither text nor path by number, from 1, as `image 12`."""
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
    """Return a stored value as readable text: a text as it is, numbers as their count."""
    if isinstance(value, str):
        if modality != "text" and value.startswith("data:"):
            return f"{value[:40]}…"
        return value
    floats = len(value) // 4
    if modality == "mesh":
        return f"{floats // 3} points"
    return f"{floats} numbers"


def _number(columns: Sequence[pa.Array | pa.ChunkedArray], modality: Modality) -> tuple[pa.Array, list[Ints]]:
    """Return the distinct values of all columns, and the index of each row's value among them."""
    stored = STORED[modality]
    chunks: list[pa.Array] = []
    for column in columns:
        if isinstance(column, pa.ChunkedArray):
            chunks += column.chunks
        else:
            chunks.append(column)
    # Chunk by chunk: joining them would copy all texts of a large file.
    encoded = pa.chunked_array([chunk.cast(stored) for chunk in chunks], stored).dictionary_encode()
    if not encoded.num_chunks:
        return pa.array([], stored), [np.empty(0, np.int64)] * len(columns)
    # Arrow extends one dictionary over all chunks; that of the last chunk is complete.
    values = encoded.chunk(encoded.num_chunks - 1).dictionary
    together = np.empty(len(encoded), np.int64)
    start = 0
    for chunk in encoded.chunks:
        indices = chunk.indices
        if chunk.null_count:
            indices = pc.fill_null(indices, ABSENT)
        together[start : start + len(chunk)] = indices.to_numpy(zero_copy_only=False)
        start += len(chunk)
    ends = np.cumsum([len(column) for column in columns])
    return values, np.split(together, ends[:-1])
