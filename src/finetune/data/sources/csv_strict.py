"""A CSV file row by row: the valid rows, and the line, column and fault of every invalid one."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from finetune.data.bad_rows import BadRows, RowLocation, cut
from finetune.data.sources.csv_head import CsvHead
from finetune.data.sources.csv_text import EndlessRowError, Row, count_line_ends, open_text, read_rows, undecodable_byte
from finetune.data.sources.errors import fail

CHUNK_ROWS = 100_000
CHECKED_ROWS = 500  # at once; with many more, Python's garbage collector visits all of them repeatedly


@dataclass(frozen=True)
class StrictReading:
    """The columns of the valid rows, the line that each begins in, and the number of rows with the invalid ones."""

    table: pa.Table
    lines: array[int]
    rows_read: int


class RowFault(NamedTuple):
    """The fault of a row, at a line of it: `kind` is a key of `ADVICE`."""

    line: int
    column: str | None
    kind: str
    what: str
    text: str


def read_strict(head: CsvHead, names: Sequence[str], max_cell_characters: int, bad: BadRows) -> StrictReading:
    """Read every row of the file, whatever its content; valid rows are returned as by `read_fast`.

    Raises:
        CheckFailed: an unclosed quote makes the rest of the file unreadable.
    """
    checker = _RowChecker(head, [head.names.index(name) for name in names], max_cell_characters)
    lines, rows_read = array("q"), 0
    arrays: list[list[pa.Array]] = [[] for _ in names]
    cells: list[list[str]] = [[] for _ in names]
    found = data_rows(head)
    while chunk := list(islice(found, CHECKED_ROWS)):
        rows_read += len(chunk)
        columns = checker.columns_if_valid(chunk)
        if columns is None:
            chunk = [row for row in chunk if checker.is_valid(row, bad)]
            columns = checker.columns(chunk)
        lines.extend(row.line for row in chunk)
        for kept, column in zip(cells, columns, strict=True):
            kept.extend(column)
        if len(cells[0]) > CHUNK_ROWS:
            _flush(cells, arrays)
    _flush(cells, arrays)
    table = pa.table([pa.chunked_array(column, pa.large_string()) for column in arrays], names=list(names))
    return StrictReading(table, lines, rows_read)


def _flush(cells: list[list[str]], arrays: list[list[pa.Array]]) -> None:
    for column, kept in zip(arrays, cells, strict=True):
        column.append(pa.array(kept, pa.large_string()))
        kept.clear()


def data_rows(head: CsvHead) -> Iterator[Row]:
    """Yield the rows below the header.

    Raises:
        CheckFailed: an unclosed quote makes the rest of the file unreadable.
    """
    with open_text(head.file, head.encoding) as stream:
        for _ in range(head.lines_before):
            stream.readline()
        found = read_rows(stream, head.dialect, 1 + head.lines_before)
        try:
            if head.named:
                next(found)
            yield from found
        except EndlessRowError as endless:
            location = f"{head.file.shown}:{endless.line}"
            what = "here a row begins that does not end within 64 million characters."
            fail(location, what, 'Is a quote in it never closed? A quote inside a quoted cell is written twice ("").')


def line_numbers(head: CsvHead, wanted: Sequence[int], by_line: bool) -> list[int]:
    """Return the line that each of these rows begins in, of a file without invalid rows.

    `by_line`: every line that is not blank is a row.
    """
    starts: Iterator[int] = (row.line for row in data_rows(head))
    if by_line:
        starts = _lines_not_blank(head)
    found = dict.fromkeys(wanted, 0)
    last = max(wanted, default=-1)
    for number, line in enumerate(starts):
        if number in found:
            found[number] = line
        if number >= last:
            break
    return [found[number] for number in wanted]


def _lines_not_blank(head: CsvHead) -> Iterator[int]:
    blank = ("\n", "\r\n", "\r")
    with open_text(head.file, head.encoding) as stream:
        lines = (number for number, line in enumerate(stream, 1) if line not in blank)
        skipped = head.lines_before + int(head.named)
        yield from islice(lines, skipped, None)


class _RowChecker:
    """Finds the first fault of a row, or checks many rows at once for any fault."""

    def __init__(self, head: CsvHead, indices: list[int], max_cell_characters: int) -> None:
        self.width = len(head.names)
        self.expected = f"the {'header' if head.named else 'first row'} has {self.width}"
        self.file = head.file.shown
        self.names = [name.strip() for name in head.names]
        self.indices = indices
        self.quote = head.dialect.quote
        self.encoding = head.encoding
        self.longest = max_cell_characters

    def columns(self, chunk: list[Row]) -> list[list[str]]:
        """Return the cells of the rows by column."""
        return [[row.cells[index] for row in chunk] for index in self.indices]

    def columns_if_valid(self, chunk: list[Row]) -> list[list[str]] | None:
        """Return the cells of the rows by column, None if any of them may have a fault."""
        if not all(row.closed and not row.stray and len(row.cells) == self.width for row in chunk):
            return None
        columns = self.columns(chunk)
        for cells in columns:
            text = "".join(cells)
            if undecodable_byte(text) is not None or "\0" in text or max(map(len, cells)) > self.longest:
                return None
        return columns

    def is_valid(self, row: Row, bad: BadRows) -> bool:
        """Whether the row has no fault; an invalid row is added to `bad`."""
        fault = self.fault(row)
        if fault:
            bad.add(RowLocation(self.file, fault.line), *fault[1:])
        return fault is None

    def fault(self, row: Row) -> RowFault | None:
        """Return the first fault of the row, None if it is valid."""
        if not row.closed:
            opened = self._line_of(row, len(row.cells) - 1)
            return RowFault(opened, None, "unclosed", "a quote that opens here is never closed", row.cells[-1])
        if len(row.cells) != self.width:
            return RowFault(row.line, None, "ragged", self._ragged(row), " | ".join(row.cells))
        if row.stray:
            fault = self._stray_fault(row)
            if fault is not None:
                return fault
        for index in self.indices:
            fault = self._cell_fault(row, index)
            if fault is not None:
                return fault
        return None

    def _stray_fault(self, row: Row) -> RowFault | None:
        # Such a cell swallowed rows. Without a line end in it, the text is as intended, like 5" or "a"b.
        for index in self.indices:
            cell = row.cells[index]
            if self.quote in cell and count_line_ends(cell):
                what = f"a quote that opens here closes {count_line_ends(cell)} lines later, in the middle of a cell"
                return RowFault(self._line_of(row, index), None, "stray", what, cell)
        return None

    def _ragged(self, row: Row) -> str:
        cells = "1 cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
        found = f"found {cells}, {self.expected}"
        for index, cell in enumerate(row.cells):
            if count_line_ends(cell):
                return f"{found} (is the quote closed that opens on line {self._line_of(row, index)}?)"
        return found

    def _cell_fault(self, row: Row, index: int) -> RowFault | None:
        cell, name = row.cells[index], self.names[index]
        byte = undecodable_byte(cell)
        if byte is not None:
            kind, what = "undecodable", f"has the byte 0x{byte:02X}, which is not {self.encoding}"
        elif "\0" in cell:
            kind, what = "nul", "has a NUL byte"
        elif len(cell) > self.longest:
            kind, what = "long", f"has {len(cell):,} characters, more than {self.longest:,}"
            if count_line_ends(cell):
                what += " (was the quote that opens here meant to close sooner?)"
        else:
            return None
        return RowFault(self._line_of(row, index), name, kind, what, cut(cell))

    def _line_of(self, row: Row, index: int) -> int:
        """Return the line on which a cell begins: cells before it may span several."""
        return row.line + sum(count_line_ends(cell) for cell in row.cells[:index])
