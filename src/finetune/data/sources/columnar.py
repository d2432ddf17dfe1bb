"""Parquet and Arrow files: only the requested columns are read, row groups in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune.data.arrow_types import READER_THREADS, canonical_type, to_canonical_table, unpacked_size
from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.source import Head, Reading
from finetune.data.sources.errors import fail, first_line
from finetune.data.sources.files import DataFile, ExpansionLimit
from finetune.data.threads import map_in_threads, usable_cores

if TYPE_CHECKING:
    from finetune.data.arrays import Ints

SAMPLE = 20
# The entry in the metadata of a Parquet file that finetune wrote from a table whose columns had no names.
WITHOUT_NAMES = b"finetune.without_names"
_READ_BYTES = 1 << 20
BATCH_ROWS = 1 << 13  # few, so that a file that expands without limit is detected before it fills memory


@contextmanager
def explain_damage(shown: str, what: str) -> Iterator[None]:
    """Raise `CheckFailed` with one sentence for an error of Arrow about a damaged file."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
        problem = f"is a damaged or incomplete {what} file: {first_line(error)}."
        fail(shown, problem, "Copy or download it again.", error)


class ParquetFile:
    """One Parquet file as a part of a source."""

    def __init__(self, file: DataFile) -> None:
        self.file = file

    def head(self) -> Head:
        """Return its columns and first rows; raises `CheckFailed` if it is damaged."""
        with explain_damage(self.file.shown, "Parquet"), self._open(_READ_BYTES) as parquet:
            names, metadata = parquet.schema_arrow.names, parquet.schema_arrow.metadata or {}
            if not names:
                return Head([], [])
            first = next(parquet.iter_batches(batch_size=SAMPLE), None)
            return Head(names, sample_rows(first), named=WITHOUT_NAMES not in metadata)

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns, row groups in parallel."""
        limit = ExpansionLimit(self.file)
        with explain_damage(self.file.shown, "Parquet"):
            with self._open() as parquet:
                schema, groups = parquet.schema_arrow, range(parquet.num_row_groups)
            read_group = partial(self._read_group, list(names), limit)
            batches = []
            for group_batches in map_in_threads(read_group, groups, usable_cores(READER_THREADS)):
                batches += group_batches
        return reading_of_table(self.file.shown, _table(batches, schema, names))

    def stream(self, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
        """Yield these columns in parts of few rows."""
        limit = ExpansionLimit(self.file)
        with explain_damage(self.file.shown, "Parquet"), self._open(_READ_BYTES) as parquet:
            batches = parquet.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False)
            yield from _stream(self.file.shown, batches, limit, names)

    def _open(self, read_bytes: int = 0) -> Any:
        """Return the open file; `read_bytes` are read at a time, 0 reads a column of a whole row group."""
        import pyarrow.parquet as pq

        # Otherwise `pre_buffer` reads whole row groups ahead, whatever the buffer size.
        is_buffered = read_bytes > 0
        return pq.ParquetFile(
            self.file.path, page_checksum_verification=True, buffer_size=read_bytes, pre_buffer=not is_buffered
        )

    def _read_group(self, names: list[str], limit: ExpansionLimit, group: int) -> list[pa.RecordBatch]:
        with self._open() as parquet:
            batches = parquet.iter_batches(BATCH_ROWS, [group], names, use_threads=False)
            return canonical_batches(batches, limit, names)


class ArrowFile:
    """One file of Arrow's own format (IPC, Feather), for random access or as a stream, as a part of a source."""

    def __init__(self, file: DataFile) -> None:
        self.file = file

    def head(self) -> Head:
        """Return its columns and first rows; raises `CheckFailed` if it is damaged."""
        with explain_damage(self.file.shown, "Arrow"), pa.OSFile(str(self.file.path)) as source:
            schema, batches = self._open(source, None)
            first = next((batch for batch in batches if batch.num_rows), None)
            return Head(schema.names, sample_rows(first))

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns."""
        with explain_damage(self.file.shown, "Arrow"), pa.OSFile(str(self.file.path)) as source:
            schema, batches = self._open(source, names)
            found = canonical_batches(batches, ExpansionLimit(self.file), names)
        return reading_of_table(self.file.shown, _table(found, schema, names))

    def stream(self, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
        """Yield these columns in the parts that the file has."""
        with explain_damage(self.file.shown, "Arrow"), pa.OSFile(str(self.file.path)) as source:
            _, batches = self._open(source, names)
            yield from _stream(self.file.shown, batches, ExpansionLimit(self.file), names)

    def _open(self, source: pa.NativeFile, names: Sequence[str] | None) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
        is_stream = not self.file.start().startswith(b"ARROW1")
        open_reader: Callable[..., Any] = pa.ipc.open_file
        if is_stream:
            open_reader = pa.ipc.open_stream
        schema = open_reader(source).schema
        source.seek(0)
        fields = None
        if names is not None:
            fields = sorted(schema.get_field_index(name) for name in names)
        reader = open_reader(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
        if is_stream:
            return schema, reader
        return schema, (reader.get_batch(i) for i in range(reader.num_record_batches))


def _table(batches: list[pa.RecordBatch], schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Return the batches as one table; `schema` is that of the file, for a file without rows."""
    types = [(name, canonical_type(schema.field(name).type)) for name in names]
    return pa.Table.from_batches(batches, pa.schema(types))


def canonical_batches(
    batches: Iterable[pa.RecordBatch], limit: ExpansionLimit, names: Sequence[str]
) -> list[pa.RecordBatch]:
    """Return these columns of the batches in canonical types, validated: a damaged file may be read as garbage."""
    found = []
    for batch in batches:
        batch.validate(full=True)
        table = pa.Table.from_batches([batch.select(list(names))])
        limit.add(sum(map(unpacked_size, table.columns)))
        found += to_canonical_table(table).to_batches()
    return found


def _stream(
    shown: str, batches: Iterable[pa.RecordBatch], limit: ExpansionLimit, names: Sequence[str]
) -> Iterator[Reading]:
    """Yield a reading of each batch."""
    first = 0
    for batch in batches:
        for canonical in canonical_batches([batch], limit, names):
            yield reading_of_table(shown, pa.Table.from_batches([canonical]), first)
            first += canonical.num_rows


def sample_rows(batch: pa.RecordBatch | None) -> list[tuple[Any, ...]]:
    """Return the first rows as Python values."""
    if batch is None:
        return []
    batch.validate(full=True)  # an invalid offset of a damaged file would crash the process
    first = batch.slice(0, SAMPLE)
    return list(zip(*(column.to_pylist() for column in first.columns), strict=True))


def reading_of_table(shown: str, table: pa.Table, first: int = 0) -> Reading:
    """Return the reading of a table without bad rows; the location of a row is its number, from 1.

    `first` is the number of rows of the file in front of it.
    """

    def locate(numbers: Ints) -> list[RowLocation]:
        return [RowLocation(shown, first + int(number) + 1) for number in numbers]

    return Reading(table, locate, table.num_rows)
