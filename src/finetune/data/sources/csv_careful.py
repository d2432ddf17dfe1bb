"""A CSV file row by row: which rows are good, and of every bad one the line, the column and what is wrong."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import pyarrow as pa

from finetune.data.bad_rows import BadRows, Place, cut
from finetune.data.sources.csv_head import CsvHead
from finetune.data.sources.csv_text import EndlessRow, Row, count_lines, open_text, rows, undecodable_byte
from finetune.data.sources.refusing import refuse

CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class CarefulReading:
    """The columns of the good rows, the line that each begins in, and how many rows there were with the bad ones."""

    table: pa.Table
    lines: array[int]
    rows_read: int


class Fault(NamedTuple):
    """What is wrong with a row: its kind (a key of `ADVICE`), and the line if not the row's first."""

    line: int
    column: str | None
    kind: str
    what: str
    text: str


def read_carefully(head: CsvHead, names: Sequence[str], max_cell_characters: int, bad: BadRows) -> CarefulReading:
    """Read every row of the file, whatever is in it; the good rows come out as `read_fast` would give them.

    Raises:
        CheckFailed: a quote is open for so long that the rest of the file cannot be read.
    """
    places = [head.names.index(name) for name in names]
    judge = _Judge(head, places, max_cell_characters)
    schema = pa.schema([(name, pa.large_string()) for name in names])
    good: list[tuple[str, ...]] = []
    lines, batches, rows_read = array("q"), [], 0
    for row in rows_of(head):
        rows_read += 1
        if fault := judge.fault(row):
            bad.add(Place(head.file.shown, fault.line), *fault[1:])
            continue
        good.append(tuple(row.cells[place] for place in places))
        lines.append(row.line)
        if len(good) == CHUNK_ROWS:
            batches.append(_batch(good, schema))
            good.clear()
    table = pa.Table.from_batches([*batches, _batch(good, schema)], schema)
    return CarefulReading(table, lines, rows_read)


def rows_of(head: CsvHead) -> Iterator[Row]:
    """Yield the rows below the header.

    Raises:
        CheckFailed: a quote is open for so long that the rest of the file cannot be read.
    """
    with open_text(head.file, head.encoding) as stream:
        found = rows(stream, head.dialect)
        try:
            if head.named:
                next(found)
            yield from found
        except EndlessRow as endless:
            place = f"{head.file.shown}:{endless.line}"
            what = "here a row begins that does not end within 64 million characters."
            refuse(place, what, 'Is a quote in it never closed? A quote inside a quoted cell is written twice ("").')


def lines_of(head: CsvHead, wanted: Sequence[int], by_line: bool) -> list[int]:
    """Return the line that each of these rows begins in, of a file without bad rows.

    `by_line`: every line that is not blank is a row.
    """
    starts = _line_starts(head) if by_line else (row.line for row in rows_of(head))
    found = dict.fromkeys(wanted, 0)
    last = max(wanted, default=-1)
    for number, line in enumerate(starts):
        if number in found:
            found[number] = line
        if number >= last:
            break
    return [found[number] for number in wanted]


def _line_starts(head: CsvHead) -> Iterator[int]:
    blank = ("\n", "\r\n", "\r")
    with open_text(head.file, head.encoding) as stream:
        lines = (number for number, line in enumerate(stream, 1) if line not in blank)
        yield from islice(lines, int(head.named), None)


def _batch(good: list[tuple[str, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [list(map(itemgetter(i), good)) for i in range(len(schema))]
    return pa.record_batch([pa.array(column, pa.large_string()) for column in columns], schema)


class _Judge:
    """Finds the first thing that is wrong with a row."""

    def __init__(self, head: CsvHead, places: list[int], max_cell_characters: int) -> None:
        self.width = len(head.names)
        self.there = f"the {'header' if head.named else 'first row'} has {self.width}"
        self.names = [name.strip() for name in head.names]
        self.places = places
        self.quote = head.dialect.quote
        self.encoding = head.encoding
        self.longest = max_cell_characters

    def fault(self, row: Row) -> Fault | None:
        """Return what is wrong with the row, or None."""
        if not row.closed:
            opened = self._line_of(row, len(row.cells) - 1)
            return Fault(opened, None, "unclosed", "a quote that opens here is never closed", row.cells[-1])
        if len(row.cells) != self.width:
            return Fault(row.line, None, "ragged", self._ragged(row), " | ".join(row.cells))
        if row.stray and (fault := self._stray_fault(row)):
            return fault
        for place in self.places:
            if fault := self._cell_fault(row, place):
                return fault
        return None

    def _stray_fault(self, row: Row) -> Fault | None:
        # Such a cell swallowed rows. Without a line end in it, the text is what was meant, as in 5" or "a"b.
        for place in self.places:
            cell = row.cells[place]
            if self.quote in cell and count_lines(cell):
                what = f"a quote that opens here closes {count_lines(cell)} lines later, in the middle of a cell"
                return Fault(self._line_of(row, place), None, "stray", what, cell)
        return None

    def _ragged(self, row: Row) -> str:
        found = f"found {len(row.cells)} {'cell' if len(row.cells) == 1 else 'cells'}, {self.there}"
        for place, cell in enumerate(row.cells):
            if count_lines(cell):
                return f"{found} (is the quote closed that opens on line {self._line_of(row, place)}?)"
        return found

    def _cell_fault(self, row: Row, place: int) -> Fault | None:
        cell, name = row.cells[place], self.names[place]
        kind = what = ""
        if (byte := undecodable_byte(cell)) is not None:
            kind, what = "undecodable", f"has the byte 0x{byte:02X}, which is not {self.encoding}"
        elif "\0" in cell:
            kind, what = "nul", "has a NUL byte"
        elif len(cell) > self.longest:
            opened = " (was the quote that opens here meant to close sooner?)" if count_lines(cell) else ""
            kind, what = "long", f"has {len(cell):,} characters, more than {self.longest:,}{opened}"
        return Fault(self._line_of(row, place), name, kind, what, cut(cell)) if kind else None

    def _line_of(self, row: Row, place: int) -> int:
        """Return the line on which a cell begins: cells before it may span several."""
        return row.line + sum(count_lines(cell) for cell in row.cells[:place])
