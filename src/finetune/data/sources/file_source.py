"""One file, or several files with the same columns, as one source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.schema.column_spec import quoted_names
from finetune.data.source import Head, Reading, ReadOptions, stream
from finetune.data.sources.errors import check_unique_names, fail
from finetune.data.sources.files import DataFile

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints

VERSION = 2  # of reading files; a new version invalidates the cache
HASH_BYTES = 1 << 20


class FileReader(Protocol):
    """The reader of one file in some format."""

    file: DataFile

    def head(self) -> Head:
        """Return its columns and first rows; raises `CheckFailed`."""

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns; raises `CheckFailed`."""


class FileSource:
    """Files with the same columns, one after the other; `shown` is the name of the source in messages."""

    def __init__(self, readers: Sequence[FileReader], shown: str, options: ReadOptions, what: str) -> None:
        self.shown = shown
        self.base = readers[0].file.path.parent
        self._readers = readers
        self._files = [reader.file for reader in readers]
        text_options = (options.header, options.delimiter, options.decimal, options.encoding)
        self._how = repr((VERSION, what, *text_options, options.max_cell_characters))

    def head(self) -> Head:
        """Return the columns of all files and the first rows of the first."""
        return self._head

    @cached_property
    def _head(self) -> Head:
        first, *others = self._readers
        head = first.head()
        check_unique_names(head.names, first.file.shown, "the table")
        for other in others:
            self._compare(head, other)
        return head

    def _compare(self, head: Head, other: FileReader) -> None:
        found = other.head()
        if head.named == found.named and sorted(head.names) == sorted(found.names):
            return
        check_unique_names(found.names, other.file.shown, "the table")
        first = self._files[0].shown
        if head.named and found.named:
            what = f"has other columns than '{first}': it {_difference(head.names, found.names)}."
        else:
            what = f"has {_width(found)}, but '{first}' has {_width(head)}."
        fail(other.file.shown, what, "Files that are read together must have the same columns.")

    def fingerprint(self) -> str:
        """Return a digest of the bytes of all files, in order, and of the options that say how they are read.

        Raises:
            CheckFailed: a file changed since it was first looked at, or cannot be read.
        """
        digest = hashlib.sha256(self._how.encode())
        for file in self._files:
            digest.update(f"{file.stamp.size} ".encode())
            _hash(file, digest)
        return digest.hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all files.

        Raises:
            CheckFailed: a file cannot be read to its end, changed while it was read, or has a column of another type.
        """
        if len(self._readers) > 1:
            self.head()  # checks that all files have the same columns
        readings = [reader.read(names, bad) for reader in self._readers]
        for file in self._files:
            file.fail_if_changed()
        if len(readings) == 1:
            return readings[0]
        table = self._concatenated([reading.table for reading in readings])
        return Reading(table, partial(locate_rows, readings), sum(reading.rows_read for reading in readings))

    def stream(self, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
        """Yield these columns of all files in parts; columns keep the type that they have in their file.

        Raises:
            CheckFailed: a file cannot be read to its end, or changed while it was read.
        """
        if len(self._readers) > 1:
            self.head()  # checks that all files have the same columns
        for reader in self._readers:
            yield from stream(reader, names, bad)
            reader.file.fail_if_changed()

    def _concatenated(self, tables: list[pa.Table]) -> pa.Table:
        import pyarrow as pa

        schema = tables[0].schema
        for table, file in zip(tables, self._files, strict=True):
            try:
                schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
            except pa.ArrowException as error:
                name = next(name for name in schema.names if not _unify(schema.field(name), table.schema.field(name)))
                types = f"{table.schema.field(name).type}, in '{self._files[0].shown}' {schema.field(name).type}"
                fail(file.shown, f"the column '{name}' is of type {types}.", "Make them the same.", error)
        return pa.concat_tables([table.cast(schema) for table in tables])


def _unify(one: pa.Field, other: pa.Field) -> bool:
    """Whether there is a type for both fields."""
    import pyarrow as pa

    try:
        pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive")
    except pa.ArrowException:
        return False
    return True


def _width(head: Head) -> str:
    header = "a header" if head.named else "no header"
    columns = "columns" if len(head.names) > 1 else "column"
    return f"{header} and {len(head.names)} {columns}"


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """Return how the names of two headers differ."""
    wanted, here = [name.strip() for name in expected], [name.strip() for name in found]
    parts = []
    missing = [name for name in wanted if name not in here]
    if missing:
        parts.append(f"lacks {quoted_names(missing)}")
    additional = [name for name in here if name not in wanted]
    if additional:
        parts.append(f"also has {quoted_names(additional)}")
    return " and ".join(parts) or "writes their names differently"


def _hash(file: DataFile, digest: hashlib._Hash) -> None:
    try:
        with file.path.open("rb") as stream:
            while data := stream.read(HASH_BYTES):
                digest.update(data)
    except OSError as error:
        fail(file.shown, f"can no longer be read: {error.strerror or error}.", "Start again.", error)
    file.fail_if_changed()


def locate_rows(readings: Sequence[Reading], numbers: Ints) -> list[RowLocation]:
    """Return the locations of rows of concatenated readings; each reading locates its rows in one call."""
    import numpy as np

    starts = np.cumsum([0, *(reading.table.num_rows for reading in readings)])
    owners = np.searchsorted(starts, numbers, side="right") - 1
    found: dict[int, RowLocation] = {}
    for owner in np.unique(owners):
        own = np.flatnonzero(owners == owner)
        found |= dict(zip(own.tolist(), readings[owner].locate(numbers[own] - starts[owner]), strict=True))
    return [found[i] for i in range(len(numbers))]
