"""NumPy arrays of vectors: `.npy`, or `.npz` with one array for each column."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.bad_rows import BadRows, Place
from finetune.data.sources.files import look_at
from finetune.data.sources.refusing import refuse
from finetune.data.sources.source import Head, Reading, ReadOptions

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints

VERSION = 1
# What an array may be called in an .npz, and the column that it becomes.
NAMES = {"vectors": "vector", "embeddings": "vector", "x": "vector", "labels": "label", "y": "label"}
_SAMPLE = 5


def open_vectors(path: Path, options: ReadOptions, key: str) -> VectorSource:
    """Return the source of a NumPy file; pickled objects in it are refused.

    Raises:
        CheckFailed: it cannot be read, or holds no table of numbers.
    """
    return VectorSource(path, key)


class VectorSource:
    """Arrays of equal length: (N, D) vectors, (N,) labels or scores."""

    def __init__(self, path: Path, key: str) -> None:
        self.shown = str(path)
        self.base = path.parent
        self._file = look_at(path, str(path), key)
        self._columns = _read(path, key)
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) != 1:
            sizes = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            refuse(key, f"the arrays in '{path}' are of different length: {sizes}.", "Each row is one item.")

    def head(self) -> Head:
        """Return the arrays' names and their first rows."""
        sample = [*zip(*(values[:_SAMPLE].tolist() for values in self._columns.values()), strict=True)]
        return Head(list(self._columns), sample)

    def fingerprint(self) -> str:
        """Return a digest of the file's bytes."""
        with self._file.path.open("rb") as file:
            return hashlib.sha256(f"{VERSION} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return the arrays as columns."""
        import pyarrow as pa

        table = pa.table({name: _column(self._columns[name]) for name in names})
        self._file.refuse_changed()
        return Reading(table, self._places, table.num_rows)

    def _places(self, rows: Ints) -> list[Place]:
        return [Place(self.shown, int(row) + 1) for row in rows]


def _read(path: Path, key: str) -> dict[str, Any]:
    import numpy as np

    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = {"vector": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except ValueError as error:
        pickled = "allow_pickle" in str(error)
        what = (
            f"'{path}' holds pickled objects, which may be code." if pickled else f"'{path}' cannot be read: {error}."
        )
        refuse(key, what, "Save plain numbers: numpy.save(path, vectors).", error)
    except (OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        refuse(key, f"'{path}' is damaged or no NumPy file.", "Write it again with numpy.save or numpy.savez.", error)
    columns = {NAMES.get(name.lower(), name): array for name, array in arrays.items()}
    for name, array in columns.items():
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiubU" or (array.ndim == 2 and array.dtype.kind == "U"):
            what = f"the array '{name}' in '{path}' is of shape {array.shape} and type {array.dtype}."
            refuse(key, what, "There must be vectors (N, D), and labels or scores (N,).")
    if not columns or not any(len(array) for array in columns.values()):
        refuse(key, f"'{path}' is empty.", "There must be at least two vectors.")
    return columns


def _column(values: Any) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values.tolist() if values.dtype.kind == "U" else np.asarray(values))
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
