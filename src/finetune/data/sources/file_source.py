"""One file or several that belong together, as one source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.schema.column_spec import quoted_names
from finetune.data.source import Head, Reading, ReadOptions
from finetune.data.sources.errors import check_unique_names, fail
from finetune.data.sources.files import DataFile

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints

VERSION = 2  # of how files are read; another one makes everything that was kept be read again
HASH_BYTES = 1 << 20


class FileReader(Protocol):
    """How one file of some format is read."""

    file: DataFile

    def head(self) -> Head:
        """Return its columns and first rows; raises `CheckFailed`."""

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns; raises `CheckFailed`."""


class FileSource:
    """Files of the same columns, one after the other; `shown` is what was asked for."""

    def __init__(self, readers: Sequence[FileReader], shown: str, options: ReadOptions, what: str) -> None:
        self.shown = shown
        self.base = readers[0].file.path.parent
        self._readers = readers
        self._files = [reader.file for reader in readers]
        self._how = repr(
            (
                VERSION,
                what,
                options.header,
                options.delimiter,
                options.decimal,
                options.encoding,
                options.max_cell_characters,
            )
        )

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
        there, here = ([name.strip() for name in one.names] if one.named else [] for one in (head, found))
        first = self._files[0].shown
        if not (there and here):
            what = f"has {_width(found)}, but '{first}' has {_width(head)}."
        else:
            lacks, more = [n for n in there if n not in here], [n for n in here if n not in there]
            parts = [f"{word} {quoted_names(names)}" for word, names in (("lacks", lacks), ("also has", more)) if names]
            what = f"has other columns than '{first}': it {' and '.join(parts) or 'writes their names otherwise'}."
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
            self.head()  # that all have the same columns must be known, whoever asks first
        readings = [reader.read(names, bad) for reader in self._readers]
        for file in self._files:
            file.fail_if_changed()
        if len(readings) == 1:
            return readings[0]
        table = self._joined([reading.table for reading in readings])
        return Reading(table, partial(locate_rows, readings), sum(reading.rows_read for reading in readings))

    def _joined(self, tables: list[pa.Table]) -> pa.Table:
        import pyarrow as pa

        schema = tables[0].schema
        for table, file in zip(tables, self._files, strict=True):
            try:
                schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
            except pa.ArrowException as error:
                odd = next(name for name in schema.names if not _agree(schema.field(name), table.schema.field(name)))
                kinds = f"{table.schema.field(odd).type}, in '{self._files[0].shown}' {schema.field(odd).type}"
                fail(file.shown, f"the column '{odd}' is of type {kinds}.", "Make them the same.", error)
        return pa.concat_tables([table.cast(schema) for table in tables])


def _agree(one: pa.Field, other: pa.Field) -> bool:
    import pyarrow as pa

    try:
        pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive")
    except pa.ArrowException:
        return False
    return True


def _width(head: Head) -> str:
    return f"{'a' if head.named else 'no'} header and {len(head.names)} column{'s' if len(head.names) > 1 else ''}"


def _hash(file: DataFile, digest: hashlib._Hash) -> None:
    try:
        with file.path.open("rb") as stream:
            while data := stream.read(HASH_BYTES):
                digest.update(data)
    except OSError as error:
        fail(file.shown, f"cannot be read any more: {error.strerror or error}.", "Start again.", error)
    file.fail_if_changed()


def locate_rows(readings: Sequence[Reading], numbers: Ints) -> list[RowLocation]:
    """Ask each reading once for the places of the rows that are its own."""
    import numpy as np

    starts = np.cumsum([0, *(reading.table.num_rows for reading in readings)])
    owners = np.searchsorted(starts, numbers, side="right") - 1
    found: dict[int, RowLocation] = {}
    for owner in np.unique(owners):
        own = np.flatnonzero(owners == owner)
        found |= dict(zip(own.tolist(), readings[owner].locate(numbers[own] - starts[owner]), strict=True))
    return [found[i] for i in range(len(numbers))]
