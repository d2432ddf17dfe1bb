"""JSON lines, and JSON that is an array of rows: blocks of lines through Arrow's reader, odd ones row by row.

A row is an object, or in a file of arrays an array: its values are columns without a header, as in CSV.
"""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import pyarrow.json as arrow_json

from finetune.data.arrow_types import READER_THREADS, to_canonical_table
from finetune.data.bad_rows import BadRows, RowLocation, cut
from finetune.data.source import Head, Reading, ReadOptions
from finetune.data.sources.csv_text import open_text, undecodable_byte
from finetune.data.sources.errors import fail
from finetune.data.sources.files import DataFile
from finetune.data.sources.json_arrays import ArrayColumns, infer_array_columns, is_array_row
from finetune.data.sources.json_text import Block, InvalidJsonError, decode_line, parse_value, read_blocks, read_values
from finetune.data.sources.type_inference import InvalidRow, infer_type, type_rows
from finetune.data.threads import map_in_threads, usable_cores

if TYPE_CHECKING:
    from finetune.data.arrays import Ints

HEAD_CHARACTERS = 1 << 20
LOOKED_AT = 1000  # objects whose keys and types count
ROWS_AT_ONCE = 10_000
Types = dict[str, pa.DataType]
Row = dict[str, Any] | InvalidRow
_INSIDE = (b":null", b": null", b",null", b", null", b"[null")  # where a null usually stands


@dataclass(frozen=True)
class _Start:
    """The first rows of a file as objects, and whether it holds one row a line; `arrays` where rows are arrays."""

    objects: list[dict[str, Any]]
    by_line: bool
    arrays: ArrayColumns | None = None


@dataclass
class _Part:
    """The good rows of one block: a line for each, or how far behind the block's first row its number is."""

    rows: pa.RecordBatch
    first_line: int
    lines: array[int] | None = None

    def line(self, row: int) -> int:
        return self.first_line + row if self.lines is None else self.lines[row]


@dataclass
class _Parts:
    parts: list[_Part] = field(default_factory=list)
    rows_read: int = 0


class JsonFile:
    """One file of JSON as a part of a source.

    `ids` are keys whose values may be texts in one object and whole numbers in another; they come as texts then. An
    object that has them is a row, also where it is alone and others are in it.
    """

    def __init__(self, file: DataFile, options: ReadOptions, ids: Sequence[str] = ()) -> None:
        self.file = file
        self._ids = ids
        self.encoding = options.encoding
        self._header = options.header

    def head(self) -> Head:
        """Return the keys of its first objects and their values: all that decide the types, so that roles agree.

        Of arrays these are the values by position.

        Raises:
            CheckFailed: there is no row in it.
        """
        objects = self._start.objects
        if arrays := self._start.arrays:
            sample = [tuple(one[name] for name in arrays.names) for one in objects]
            return Head(arrays.names, sample, arrays.named)
        names = list(dict.fromkeys(name for one in objects for name in one))
        return Head(names, [tuple(one.get(name) for name in names) for one in objects])

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all objects; those that are broken or of another kind are added to `bad`."""
        types = {name: infer_type(one.get(name) for one in self._start.objects) for name in names}
        lines = self._read_lines if self._start.arrays is None else self._read_arrays
        found = lines(types, bad) if self._start.by_line else self._read_values(types, bad)
        schema = pa.schema(list(types.items()))
        batches = [_cast(part.rows, schema) for part in found.parts]
        table = to_canonical_table(pa.Table.from_batches(batches, schema))
        return Reading(table, partial(_places, self.file.shown, found.parts), found.rows_read)

    @cached_property
    def _start(self) -> _Start:
        with open_text(self.file, self.encoding) as stream:
            text = stream.read(HEAD_CHARACTERS)
        start = text.lstrip()
        if not start:
            fail("data.path", f"'{self.file.shown}' is empty.", "It needs at least two rows.")
        by_line = list(_values_by_line(text, len(text) < HEAD_CHARACTERS))
        if not start.startswith("["):
            objects = [value for value in by_line if isinstance(value, dict)]
            if len(objects) == 1 and _holds_rows(objects[0]) and not self._ids:
                self._refuse_single(objects[0])
            if objects:
                return _Start(objects, by_line=True)
        elif len(by_line) > 1 and all(is_array_row(value) for value in by_line[:2]):
            return self._of_arrays(by_line, by_line=True)
        if (byte := undecodable_byte(start[:1000])) is not None:
            what = f"'{self.file.shown}' has the byte 0x{byte:02X}, which is not {self.encoding}."
            if self._ids:  # of a BEIR folder, to which data.encoding does not apply
                fail(self.file.shown, what, "Save it as UTF-8.")
            fail("data.encoding", what, "Set data.encoding=cp1252 (Windows, Excel) or latin-1.")
        found = self._first_values()
        if is_array_row(found[0]):
            return self._of_arrays(found, by_line=False)
        objects = [value for value in found if isinstance(value, dict)]
        if len(objects) == 1 and not start.startswith("[") and not self._ids:
            self._refuse_single(objects[0])
        return _Start(objects, by_line=False)

    def _of_arrays(self, found: list[Any], by_line: bool) -> _Start:
        arrays = infer_array_columns([value for value in found if isinstance(value, list)], self._header)
        rows = [arrays.row(value) for value in found[int(arrays.named) :]]
        return _Start([row for row in rows if isinstance(row, dict)], by_line, arrays)

    def _first_values(self) -> list[Any]:
        """Return the first values that can be rows: objects and arrays."""
        found: list[Any] = []
        try:
            with open_text(self.file, self.encoding) as stream:
                for _, value in read_values(stream):
                    found += [value] if isinstance(value, dict) or is_array_row(value) else []
                    if len(found) == LOOKED_AT:
                        break
        except InvalidJsonError as broken:
            if not found:
                self._refuse_broken(broken)
        if not found:
            what = "there is no JSON object in it, and no array for each row."
            fail(self.file.shown, what, 'It must hold objects, such as {"anchor": "..."}, or arrays: ["...", "..."].')
        return found

    def _refuse_single(self, found: dict[str, Any]) -> NoReturn:
        shown = ", ".join(f"'{cut(name, 20)}'" for name in list(found)[:5])
        what = f"holds a single JSON object, with the keys {shown}."
        fail(self.file.shown, what, "It must be one object for each row: a list of them, or one a line.")

    def _refuse_broken(self, broken: InvalidJsonError) -> NoReturn:
        what = f"from here on it is no JSON ({broken.what}): {cut(broken.text)}"
        fail(f"{self.file.shown}:{broken.line}", what, "Mend it; objects one a line (.jsonl) are read past a bad one.")

    def _read_lines(self, types: Types, bad: BadRows) -> _Parts:
        found = _Parts()
        with open_text(self.file, self.encoding) if not self._is_utf8 else self.file.open() as stream:
            fast = partial(_read_block, types=dict(types))
            for block, part in map_in_threads(fast, read_blocks(stream, self.file.shown), usable_cores(READER_THREADS)):
                if part is not None:
                    found.parts.append(part)
                    found.rows_read += part.rows.num_rows
                else:
                    self._read_carefully(self._parsed(block), types, bad, found)
        return found

    def _read_arrays(self, types: Types, bad: BadRows) -> _Parts:
        """Read lines that are arrays, which Arrow does not."""
        found = _Parts()
        with open_text(self.file, self.encoding) if not self._is_utf8 else self.file.open() as stream:
            items = (item for block in read_blocks(stream, self.file.shown) for item in self._parsed(block))
            self._read_carefully(items, types, bad, found)
        return found

    def _with_ids_as_text(self, rows: list[Row], types: Types) -> list[Row]:
        """Return the rows with their ids as texts, if some are; what was read before becomes text in the end."""
        objects = [row for row in rows if isinstance(row, dict)]
        for name in self._ids:
            if types.get(name) == pa.int64() and any(isinstance(row.get(name), str) for row in objects):
                types[name] = pa.string()
        names = [name for name in self._ids if types.get(name) == pa.string()]
        return [
            row | {name: str(row[name]) for name in names if _is_number(row.get(name))}
            if isinstance(row, dict)
            else row
            for row in rows
        ]

    def _parsed(self, block: Block) -> Iterator[tuple[int, Any]]:
        for line, raw in block.lines():
            yield line, parse_value(decode_line(raw, self._is_utf8), self.encoding)

    @property
    def _is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")

    def _read_values(self, types: Types, bad: BadRows) -> _Parts:
        found = _Parts()
        try:
            with open_text(self.file, self.encoding) as stream:
                self._read_carefully(read_values(stream), types, bad, found)
        except InvalidJsonError as broken:
            self._refuse_broken(broken)
        return found

    def _read_carefully(self, items: Iterator[tuple[int, Any]], types: Types, bad: BadRows, found: _Parts) -> None:
        rows: list[dict[str, Any] | InvalidRow] = []
        lines: list[int] = []
        arrays = self._start.arrays
        for line, value in islice(items, int(arrays is not None and arrays.named), None):
            rows.append(arrays.row(value) if arrays else _object(value))
            lines.append(line)
            if len(rows) == ROWS_AT_ONCE:
                self._flush(rows, lines, types, bad, found)
        self._flush(rows, lines, types, bad, found)

    def _flush(
        self, rows: list[dict[str, Any] | InvalidRow], lines: list[int], types: Types, bad: BadRows, found: _Parts
    ) -> None:
        rows = self._with_ids_as_text(rows, types) if self._ids else rows
        batch, good = type_rows(rows, [RowLocation(self.file.shown, line) for line in lines], types, bad)
        found.parts.append(_Part(batch, 0, array("q", (lines[number] for number in good))))
        found.rows_read += len(rows)
        rows.clear()
        lines.clear()


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _values_by_line(text: str, whole: bool) -> Iterator[Any]:
    """Yield what the first lines hold, each by itself; lines that are no JSON are left out."""
    lines = text.split("\n")
    for line in (lines if whole or len(lines) == 1 else lines[:-1])[:LOOKED_AT]:
        if line.strip() and not isinstance(value := parse_value(line), InvalidRow):
            yield value


def _object(value: Any) -> dict[str, Any] | InvalidRow:
    is_row = isinstance(value, dict | InvalidRow)
    return value if is_row else InvalidRow("json", "is no JSON object", json.dumps(value))


def _holds_rows(found: dict[str, Any]) -> bool:
    """Whether an object looks like a wrapping of rows: objects, or lists of them, in it."""
    read_values = [value[0] if isinstance(value, list) and value else value for value in found.values()]
    return any(isinstance(value, dict) for value in read_values)


def _read_block(block: Block, types: Types) -> tuple[Block, _Part | None]:
    """Return the rows of a block, None if a single one is not as it should be."""
    if _has_bare_null(block.data):
        return block, None
    schema = pa.schema([(name, kind) for name, kind in types.items()])
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    # One block for Arrow too: it must not cut it again at places that it does not tell.
    size = arrow_json.ReadOptions(use_threads=False, block_size=len(block.data) + 1)
    try:
        table = arrow_json.read_json(pa.BufferReader(block.data), size, options).select(list(types))
        table.validate(full=True)  # texts may be no UTF-8
    except (pa.ArrowException, KeyError):
        return block, None
    numbers = block.numbers(table.num_rows)
    # Two objects in a line, or one over two lines: the rows could not be found again.
    if not table.num_rows or (numbers is not None and len(numbers) != table.num_rows):
        return block, None
    return block, _Part(table.combine_chunks().to_batches()[0], block.first_line, numbers)


def _has_bare_null(data: bytes) -> bool:
    """Whether a null may stand in place of an object: that ends the process in Arrow's reader (26.0.1)."""
    # Counting is fast, and nearly always enough; a word in a text, as "nullify", needs a look at each.
    if data.count(b"null") == sum(map(data.count, _INSIDE)):
        return False
    at = -1
    while (at := data.find(b"null", at + 1)) >= 0:
        if data[max(0, at - 64) : at].rstrip()[-1:] in (b"", b"}"):
            return True
        if data[at - 1 : at] == b"\n":
            return True
    return False


def _cast(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if rows.schema.equals(schema):
        return rows
    columns = [rows.column(i).cast(kind.type, safe=False) for i, kind in enumerate(schema)]
    return pa.record_batch(columns, schema)


def _places(shown: str, parts: list[_Part], numbers: Ints) -> list[RowLocation]:
    import numpy as np

    starts = np.cumsum([0, *(part.rows.num_rows for part in parts)])
    owners = np.searchsorted(starts, numbers, side="right") - 1
    return [
        RowLocation(shown, parts[owner].line(int(number - starts[owner])))
        for number, owner in zip(numbers, owners, strict=True)
    ]
