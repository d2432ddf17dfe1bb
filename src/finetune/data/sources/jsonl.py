"""JSON lines, and JSON that is an array of rows: blocks of lines through Arrow's reader, unusual ones row by row."""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.json as arrow_json

from finetune.data.arrow_types import READER_THREADS, to_canonical_table
from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.source import Head, Reading, ReadOptions
from finetune.data.sources.csv_text import open_text
from finetune.data.sources.files import DataFile
from finetune.data.sources.json_head import JsonHead, fail_invalid_json, read_json_head
from finetune.data.sources.json_text import Block, InvalidJsonError, decode_line, parse_value, read_blocks, read_values
from finetune.data.sources.type_inference import InvalidRow, infer_type, type_rows
from finetune.data.threads import map_in_threads, usable_cores

if TYPE_CHECKING:
    from finetune.data.arrays import Ints

CHUNK_ROWS = 10_000
Types = dict[str, pa.DataType]
Row = dict[str, Any] | InvalidRow
_USUAL_NULLS = (b":null", b": null", b",null", b", null", b"[null")  # the bytes in front of a null inside a row


@dataclass
class _Part:
    """The valid rows of one block, and the line of each: `lines`, or consecutive from `first_line`."""

    rows: pa.RecordBatch
    first_line: int
    lines: array[int] | None = None

    def line(self, row: int) -> int:
        if self.lines is None:
            return self.first_line + row
        return self.lines[row]


@dataclass
class _Parts:
    """The parts of a file that were read so far; `rows_read` also counts invalid rows."""

    parts: list[_Part] = field(default_factory=list)
    rows_read: int = 0


class JsonFile:
    """One JSON file as a part of a source.

    `ids` are keys whose values may be texts in one object and integers in another; they are read as texts. With `ids`,
    a file of a single object has one row, even if other objects are inside it.
    """

    def __init__(self, file: DataFile, options: ReadOptions, ids: Sequence[str] = ()) -> None:
        self.file = file
        self._ids = ids
        self.encoding = options.encoding
        self._header = options.header

    def head(self) -> Head:
        """Return the keys and values of the first objects, all that decide the types, so that roles agree with them.

        The columns of arrays are their values by position.

        Raises:
            CheckFailed: the file has no rows.
        """
        objects, arrays = self._json_head.objects, self._json_head.arrays
        if arrays is not None:
            sample = [tuple(row[name] for name in arrays.names) for row in objects]
            return Head(arrays.names, sample, arrays.named)
        names = list(dict.fromkeys(name for row in objects for name in row))
        return Head(names, [tuple(row.get(name) for name in names) for row in objects])

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all objects; invalid ones, and those of other types, are added to `bad`."""
        types = {name: infer_type(row.get(name) for row in self._json_head.objects) for name in names}
        if not self._json_head.by_line:
            found = self._read_values(types, bad)
        elif self._json_head.arrays is not None:
            found = self._read_array_lines(types, bad)
        else:
            found = self._read_lines(types, bad)
        return self._reading(found, types)

    def stream(self, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
        """Yield the same rows in parts, if every line is an object; else all at once."""
        if self._ids or not self._json_head.by_line or self._json_head.arrays is not None:
            yield self.read(names, bad)
            return
        types = {name: infer_type(row.get(name) for row in self._json_head.objects) for name in names}
        for found in self._line_parts(types, bad):
            yield self._reading(found, types)

    def _reading(self, found: _Parts, types: Types) -> Reading:
        schema = pa.schema(list(types.items()))
        batches = [_cast(part.rows, schema) for part in found.parts]
        table = to_canonical_table(pa.Table.from_batches(batches, schema))
        return Reading(table, partial(_locate, self.file.shown, found.parts), found.rows_read)

    @cached_property
    def _json_head(self) -> JsonHead:
        return read_json_head(self.file, self.encoding, self._header, allow_single=bool(self._ids))

    def _read_lines(self, types: Types, bad: BadRows) -> _Parts:
        whole = _Parts()
        for found in self._line_parts(types, bad):
            whole.parts += found.parts
            whole.rows_read += found.rows_read
        return whole

    def _line_parts(self, types: Types, bad: BadRows) -> Iterator[_Parts]:
        """Yield the rows of each block of lines."""
        with self._open() as stream:
            read_block = partial(_read_block, types=dict(types))
            blocks = read_blocks(stream, self.file.shown)
            for block, part in map_in_threads(read_block, blocks, usable_cores(READER_THREADS)):
                found = _Parts()
                if part is None:
                    self._read_rows(self._parse_lines(block), types, bad, found)
                else:
                    found.parts.append(part)
                    found.rows_read += part.rows.num_rows
                yield found

    def _read_array_lines(self, types: Types, bad: BadRows) -> _Parts:
        """Read lines that are arrays, which Arrow does not support."""
        found = _Parts()
        with self._open() as stream:
            blocks = read_blocks(stream, self.file.shown)
            lines = (line for block in blocks for line in self._parse_lines(block))
            self._read_rows(lines, types, bad, found)
        return found

    def _read_values(self, types: Types, bad: BadRows) -> _Parts:
        """Read a file that is one array of rows, or whose rows span lines."""
        found = _Parts()
        try:
            with open_text(self.file, self.encoding) as stream:
                self._read_rows(read_values(stream), types, bad, found)
        except InvalidJsonError as error:
            fail_invalid_json(self.file, error)
        return found

    def _open(self) -> BinaryIO | TextIO:
        if self._is_utf8:
            return self.file.open()
        return open_text(self.file, self.encoding)

    @property
    def _is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")

    def _parse_lines(self, block: Block) -> Iterator[tuple[int, Any]]:
        for line, raw in block.lines():
            yield line, parse_value(decode_line(raw, self._is_utf8), self.encoding)

    def _read_rows(self, values: Iterator[tuple[int, Any]], types: Types, bad: BadRows, found: _Parts) -> None:
        """Read rows one by one, from values with their lines."""
        rows: list[Row] = []
        lines: list[int] = []
        arrays = self._json_head.arrays
        first_row = 1 if arrays is not None and arrays.named else 0
        for line, value in islice(values, first_row, None):
            rows.append(arrays.row(value) if arrays is not None else _as_row(value))
            lines.append(line)
            if len(rows) == CHUNK_ROWS:
                self._add_part(rows, lines, types, bad, found)
                rows, lines = [], []
        self._add_part(rows, lines, types, bad, found)

    def _add_part(self, rows: list[Row], lines: list[int], types: Types, bad: BadRows, found: _Parts) -> None:
        if self._ids:
            rows = self._with_ids_as_text(rows, types)
        locations = [RowLocation(self.file.shown, line) for line in lines]
        batch, valid = type_rows(rows, locations, types, bad)
        found.parts.append(_Part(batch, 0, array("q", (lines[index] for index in valid))))
        found.rows_read += len(rows)

    def _with_ids_as_text(self, rows: list[Row], types: Types) -> list[Row]:
        """Return the rows with their ids as texts, if some are; earlier parts are cast to text in the end."""
        for name in self._ids:
            if types.get(name) == pa.int64() and any(_has_text(row, name) for row in rows):
                types[name] = pa.string()
        names = [name for name in self._ids if types.get(name) == pa.string()]
        return [_with_integers_as_text(row, names) for row in rows]


def _has_text(row: Row, name: str) -> bool:
    return isinstance(row, dict) and isinstance(row.get(name), str)


def _with_integers_as_text(row: Row, names: Sequence[str]) -> Row:
    if not isinstance(row, dict):
        return row
    texts = {}
    for name in names:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            texts[name] = str(value)
    return row | texts


def _as_row(value: Any) -> Row:
    if isinstance(value, dict | InvalidRow):
        return value
    return InvalidRow("json", "is not a JSON object", json.dumps(value))


def _read_block(block: Block, types: Types) -> tuple[Block, _Part | None]:
    """Return the block and its rows, None if any of them is not as expected."""
    if _has_null_row(block.data):
        return block, None
    schema = pa.schema(list(types.items()))
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    # One block for Arrow too: it would not report where it splits it.
    size = arrow_json.ReadOptions(use_threads=False, block_size=len(block.data) + 1)
    try:
        table = arrow_json.read_json(pa.BufferReader(block.data), size, options).select(list(types))
        table.validate(full=True)  # texts may be invalid UTF-8
    except (pa.ArrowException, KeyError):
        return block, None
    lines = block.numbers(table.num_rows)
    # Two objects in a line, or one over two lines: the lines of rows would be unknown.
    if not table.num_rows or (lines is not None and len(lines) != table.num_rows):
        return block, None
    return block, _Part(table.combine_chunks().to_batches()[0], block.first_line, lines)


def _has_null_row(data: bytes) -> bool:
    """Whether a null may be in place of an object: that crashes Arrow's reader (26.0.1)."""
    # Counting is fast and nearly always enough; "null" inside a text, as in "nullify", needs a check of each.
    if data.count(b"null") == sum(map(data.count, _USUAL_NULLS)):
        return False
    at = data.find(b"null")
    while at >= 0:
        before = data[max(0, at - 64) : at]
        if before.endswith(b"\n") or before.rstrip()[-1:] in (b"", b"}"):
            return True
        at = data.find(b"null", at + 1)
    return False


def _cast(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if rows.schema.equals(schema):
        return rows
    columns = [rows.column(index).cast(field.type, safe=False) for index, field in enumerate(schema)]
    return pa.record_batch(columns, schema)


def _locate(shown: str, parts: list[_Part], numbers: Ints) -> list[RowLocation]:
    import numpy as np

    starts = np.cumsum([0, *(part.rows.num_rows for part in parts)])
    owners = np.searchsorted(starts, numbers, side="right") - 1
    locations = []
    for number, owner in zip(numbers, owners, strict=True):
        line = parts[owner].line(int(number - starts[owner]))
        locations.append(RowLocation(shown, line))
    return locations
