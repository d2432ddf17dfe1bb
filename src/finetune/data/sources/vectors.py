"""NumPy arrays: `.npy` with vectors (N, D), `.npz` with an array for each column. Pickled objects are refused."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.source import Head, Reading, Source
from finetune.data.sources.errors import fail
from finetune.data.sources.files import FREE_BYTES, MOST_EXPANSION, DataFile, fail_unreadable, find_file

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


VERSION = 1
SAMPLE = 20
ONE_ARRAY = "vector"  # the column that an .npy becomes
SHORT = {"X": ONE_ARRAY, "x": ONE_ARRAY, "y": "label"}  # as scikit-learn calls them
SAVE_AGAIN = "Write it again with numpy.save or numpy.savez."
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


class Shape(NamedTuple):
    """The header of an array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        total = self.dtype.itemsize
        for length in self.shape:  # as Python integers: those of a forged header would overflow
            total *= length
        return total


def open_vectors(path: Path, shown: str, key: str) -> Source:
    """Return the source of an `.npy` or `.npz` file.

    Raises:
        CheckFailed: it is missing or cannot be opened; `head` finds other problems.
    """
    return VectorFile(find_file(path, shown, key), key)


class VectorFile:
    """Columns of equal length: vectors (N, D) as lists of fixed size, labels and scores (N,) as stored.

    An `.npy` is memory-mapped, and Arrow reads from the map.
    """

    def __init__(self, file: DataFile, key: str) -> None:
        self.shown = file.shown
        self.base = file.path.parent
        self._file = file
        self._key = key

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        """The header of each array by its name."""
        try:
            if not self._is_archive():
                with self._file.path.open("rb") as stream:
                    return self._checked({ONE_ARRAY: _header(stream)}, {ONE_ARRAY: self._file.stamp.size})
            with zipfile.ZipFile(self._file.path) as archive:
                return self._headers(archive)
        except PermissionError as error:
            fail_unreadable(self.shown, error, self._key)
        except _DAMAGE as error:
            fail(self._key, f"'{self.shown}' is damaged or not a NumPy file.", SAVE_AGAIN, error)

    def _is_archive(self) -> bool:
        with self._file.path.open("rb") as stream:
            return stream.read(2) == b"PK"

    def _headers(self, archive: zipfile.ZipFile) -> dict[str, Shape]:
        infos = _members(archive)
        unpacked = sum(info.file_size for info in infos.values())
        if unpacked > FREE_BYTES and unpacked > MOST_EXPANSION * max(1, self._file.stamp.size):
            size = f"{unpacked >> 20:,} MiB when it is unpacked, {MOST_EXPANSION} times its size"
            advice = "Real vectors do not. If yours do, save them with numpy.savez."
            fail(self._key, f"'{self.shown}' grows to {size}.", advice)
        found = {}
        for name, info in infos.items():
            with archive.open(info) as stream:
                found[name] = _header(stream)
        return self._checked(found, {name: info.file_size for name, info in infos.items()})

    def _checked(self, found: dict[str, Shape], sizes: dict[str, int]) -> dict[str, Shape]:
        for name, shape in found.items():
            title = f"the array '{name}' in '{self.shown}'" if len(found) > 1 else f"'{self.shown}'"
            self._check_array(title, shape, sizes[name])
        lengths = {name: shape.shape[0] for name, shape in found.items()}
        if len(set(lengths.values())) > 1:
            rows = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
            fail(self._key, f"the arrays in '{self.shown}' differ in their number of rows: {rows}.", SAVE_AGAIN)
        if not any(lengths.values()) or not any(len(shape.shape) == 2 for shape in found.values()):
            fail(self._key, f"there are no vectors in '{self.shown}'.", "They are an array (N, D) of numbers.")
        return found

    def _check_array(self, title: str, shape: Shape, size: int) -> None:
        if shape.dtype.hasobject:
            what = f"{title} holds Python objects, which may contain code and are not loaded."
            fail(self._key, what, "Save numbers: vectors.astype('float32'), labels.astype(str).")
        fault = _fault(shape)
        if fault:
            fail(self._key, f"{title} {fault}.", "Vectors are (N, D); labels and scores are (N,).")
        if shape.size > size:
            fail(self._key, f"{title} is incomplete.", "Copy or download the file again.")

    def head(self) -> Head:
        """Return the names of the arrays and their first rows."""
        first = {name: array[:SAMPLE].tolist() for name, array in self._arrays(SAMPLE).items()}
        return Head(list(first), list(zip(*first.values(), strict=True)))

    def fingerprint(self) -> str:
        """Return a digest of the file's bytes."""
        try:
            with self._file.path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            fail_unreadable(self.shown, error, self._key)
        self._file.fail_if_changed()
        return hashlib.sha256(f"{VERSION} {content}".encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these arrays as columns; raises `CheckFailed` for a damaged or changed file."""
        import pyarrow as pa

        arrays = self._arrays(None, names)
        table = pa.table({name: _column(arrays[name]) for name in names})
        self._file.fail_if_changed()
        return Reading(table, lambda rows: [RowLocation(self.shown, int(row) + 1) for row in rows], table.num_rows)

    def _arrays(self, rows: int | None, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the arrays of these names; of an .npz only `rows` rows where that is possible."""
        import numpy as np

        shapes = self._shapes
        wanted = list(shapes) if names is None else names
        try:
            if not self._is_archive():
                return {ONE_ARRAY: np.load(self._file.path, mmap_mode="r", allow_pickle=False)}
            with zipfile.ZipFile(self._file.path) as archive:
                members = _members(archive)
                found = {}
                for name in wanted:
                    with archive.open(members[name]) as stream:
                        found[name] = _read(stream, rows)
                return found
        except _DAMAGE as error:
            fail(self._key, f"'{self.shown}' is damaged or not a NumPy file.", SAVE_AGAIN, error)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by the names of their columns."""
    by_name = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    members = {}
    for name, info in by_name.items():
        column = SHORT.get(name, name)
        if column in by_name:  # an array of that name is in the file too
            column = name
        members[column] = info
    return members


def _header(stream: IO[bytes]) -> Shape:
    """Read the header of an array; raises `ValueError` if there is none."""
    from numpy.lib import format as npy

    if npy.read_magic(stream) == (1, 0):
        shape = Shape(*npy.read_array_header_1_0(stream))
    else:
        shape = Shape(*npy.read_array_header_2_0(stream))
    if min(shape.shape, default=0) < 0:
        raise ValueError("a negative length")
    return shape


def _fault(shape: Shape) -> str:
    """Return why an array is unsupported, an empty text if it is not."""
    if len(shape.shape) not in (1, 2):
        return f"has {len(shape.shape)} dimensions"
    kinds, wanted = "fiubU", "label or score"
    if len(shape.shape) == 2:
        kinds, wanted = "fiu", "vector"
    if shape.dtype.kind not in kinds or (shape.dtype.kind == "f" and shape.dtype.itemsize > 8):
        return f"holds {shape.dtype}, which is not a {wanted}"
    if wanted == "vector" and shape.shape[1] == 0:
        return "has vectors without numbers"
    return ""


def _read(stream: IO[bytes], rows: int | None) -> Any:
    """Return the array, or its first rows: an array stored by columns is read completely."""
    import numpy as np

    shape = _header(stream)
    count = shape.shape[0]
    if rows is not None and not shape.fortran_order:
        count = min(rows, count)
    wanted = shape._replace(shape=(count, *shape.shape[1:]))
    data = stream.read(wanted.size)
    flat = np.frombuffer(data, shape.dtype)
    return flat.reshape(wanted.shape, order="F" if shape.fortran_order else "C")


def _column(array: Any) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if array.dtype.kind == "U":
        return pa.array(array.tolist(), pa.large_string())
    flat = np.ascontiguousarray(array).reshape(-1)
    values = pa.array(flat.astype(flat.dtype.newbyteorder("="), copy=False))
    if array.ndim == 1:
        return values
    return pa.FixedSizeListArray.from_arrays(values, array.shape[1])
