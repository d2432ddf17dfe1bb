"""Finds the rows whose text occurs before, with memory that the number of rows hardly changes.

The digest of each text is appended to one of 256 files by its first byte. Each of these, a 256th of the corpus, is then
sorted in memory: 24 bytes a row, so that a billion rows need about 100 MB at a time. Equal texts are in the same file.

Shapes: N rows of a file of digests, U of them that are duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune.data.arrays import Ints

_FILES = 256
_DIGEST_BYTES = 16  # two texts of a trillion share a digest with a chance below 1e-14
_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
_PAIR = np.dtype([("row", "<i8"), ("first", "<i8")])
_BUFFERED_ROWS = 1 << 16
_SHARDS_PER_FILE = 64


class Duplicates:
    """Collects the digests of all texts; `write` then finds the duplicates. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = 0
        self._buffered: list[NDArray[Any]] = []
        self._files = ExitStack()
        folder.mkdir()
        self._digests = [self._files.enter_context((folder / f"{i}.digests").open("wb")) for i in range(_FILES)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, texts: pa.Array) -> None:
        """Add the texts of consecutive rows, `large_string` without nulls."""
        rows = np.empty(len(texts), _ROW)
        digests = b"".join(_digest(text) for text in _bytes_of(texts))
        rows[["high", "low"]] = np.frombuffer(digests, [("high", "<u8"), ("low", "<u8")])
        rows["row"] = np.arange(self._rows, self._rows + len(texts))
        self._rows += len(texts)
        self._buffered.append(rows)
        if sum(map(len, self._buffered)) >= _BUFFERED_ROWS:
            self._flush()

    def write(self, shard_rows: int) -> int:
        """Write the duplicates of each shard of this many rows, see `duplicates_of`, and return how many there are."""
        self._flush()
        self._files.close()
        found = 0
        with ExitStack() as files:
            pairs = [files.enter_context(path.open("wb")) for path in self._pair_files(shard_rows)]
            for number in range(_FILES):
                path = self._folder / f"{number}.digests"
                duplicates = _duplicates(np.fromfile(path, _ROW))
                path.unlink()
                found += len(duplicates)
                for file, part in _by(duplicates["row"] // (shard_rows * _SHARDS_PER_FILE), duplicates):
                    pairs[file].write(part.tobytes())
        for path in self._pair_files(shard_rows):
            self._split(path, shard_rows)
        return found

    def _pair_files(self, shard_rows: int) -> list[Path]:
        count = -(-self._rows // (shard_rows * _SHARDS_PER_FILE))
        return [self._folder / f"{number}.pairs" for number in range(count)]

    def _split(self, path: Path, shard_rows: int) -> None:
        """Write the duplicates in one file, which are of 64 shards, into a file for each shard."""
        pairs = np.fromfile(path, _PAIR)
        pairs.sort(order="row")
        for shard, part in _by(pairs["row"] // shard_rows, pairs):
            (self._folder / f"{shard:05}.duplicates").write_bytes(part.tobytes())
        path.unlink()

    def _flush(self) -> None:
        if not self._buffered:
            return
        rows = np.concatenate(self._buffered)
        self._buffered.clear()
        for file, part in _by(rows["high"] & 0xFF, rows):
            self._digests[file].write(part.tobytes())


def duplicates_of(folder: Path, shard: int, shard_rows: int) -> tuple[Ints, Ints]:
    """Return the rows of a shard that repeat a text, counted in the shard, and the first row of each in the corpus."""
    path = folder / f"{shard:05}.duplicates"
    if not path.is_file():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pairs = np.fromfile(path, _PAIR)
    return pairs["row"] - shard * shard_rows, pairs["first"]


def _duplicates(rows_N: NDArray[Any]) -> NDArray[Any]:
    """Return `_PAIR` `(U,)` of the rows whose digest an earlier row has."""
    order = np.lexsort((rows_N["row"], rows_N["low"], rows_N["high"]))
    sorted_N = rows_N[order]
    is_first = np.ones(len(sorted_N), bool)
    is_first[1:] = (np.diff(sorted_N["high"]) != 0) | (np.diff(sorted_N["low"]) != 0)
    firsts = sorted_N["row"][is_first][np.cumsum(is_first) - 1]
    pairs = np.empty(int((~is_first).sum()), _PAIR)
    pairs["row"], pairs["first"] = sorted_N["row"][~is_first], firsts[~is_first]
    return pairs


def _by(keys: NDArray[Any], rows: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the rows of each key, in their order."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    for value, part in zip(values.tolist(), np.split(rows[order], starts[1:]), strict=len(rows) > 0):
        yield int(value), part


def _bytes_of(texts: pa.Array) -> Iterator[memoryview]:
    """Yield the UTF-8 of each text without making Python texts."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, 8 * texts.offset).tolist()
    data = memoryview(texts.buffers()[2] or b"")
    for start, end in pairwise(offsets):
        yield data[start:end]


def _digest(text: memoryview) -> bytes:
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()
