"""A CSV file row by row: which rows are good, and of every bad one the line, the column and what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter

import pyarrow as pa

from finetune.data.csv_head import Head
from finetune.data.csv_text import Row, count_lines, cut, open_text, rows, undecodable_byte
from finetune.data.roles import Roles
from finetune.errors import Problem

SHOWN = 5  # bad rows of one kind that are shown
LISTED = 15  # bad rows of one kind of which the line is said; the rest is counted
CHUNK_ROWS = 100_000

ADVICE = {
    "ragged": "A cell that holds the delimiter or a line end must stand in double quotes.",
    "unclosed": 'Close it with a double quote; a quote inside a quoted cell is written twice ("").',
    "stray": 'A quote inside a quoted cell is written twice ("").',
    "undecodable": "If the whole file is like that, set data.encoding=cp1252 (Windows, Excel) or latin-1.",
    "nul": "Remove it; many of them mean that the file is utf-16 (data.encoding=utf-16).",
    "long": "If it is meant, raise data.max_cell_characters.",
    "empty": "Both texts of a pair are needed.",
    "negative": "A negative must be a wrong answer.",
    "same": "Such a pair teaches nothing.",
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: its kind (a key of `ADVICE`), the sentence, and the line if not the row's first."""

    kind: str
    what: str
    line: int


@dataclass
class CarefulReading:
    """The columns of the good rows, how many rows there were, and what was wrong with the others."""

    columns: list[pa.ChunkedArray] = field(default_factory=list)
    rows_read: int = 0
    faults: list[Fault] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def bad_rows(self) -> int:
        """How many rows are bad."""
        return self.kinds.total()

    def problems(self, shown: str) -> list[Problem]:
        """Return the first bad rows of each kind, the lines of some more of it, and a last problem for all."""
        problems = []
        for kind, count in self.kinds.items():
            faults = [fault for fault in self.faults if fault.kind == kind]
            for place, fault in enumerate(faults[:SHOWN]):
                problems.append(Problem(f"{shown}:{fault.line}", fault.what, "" if place else ADVICE[kind]))
            if count > SHOWN:
                lines = ", ".join(str(fault.line) for fault in faults[SHOWN:])
                more = "" if count == len(faults) else ", …"
                rows = f"{count - SHOWN:,} more {_rows(count - SHOWN)} like this:"
                problems.append(Problem(shown, f"and {rows} line{'s' * (count - SHOWN > 1)} {lines}{more}."))
        what = f"{self.bad_rows:,} of {self.rows_read:,} {_rows(self.rows_read)} {_are(self.bad_rows)} bad."
        problems.append(Problem("data.on_bad_rows", what, "Mend them, or leave them out: data.on_bad_rows=skip."))
        return problems


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def read_carefully(head: Head, roles: Roles, max_cell_characters: int) -> CarefulReading:
    """Read every row of the file, whatever is in it.

    The good rows come out as `read_fast` would give them: `large_string` columns, a blank negative as null.
    """
    reading = CarefulReading()
    places = [head.header.index(name) for name in roles.names]
    pick = itemgetter(*places)
    judge = _Judge(head, places, max_cell_characters)
    good: list[tuple[str, ...]] = []
    chunks: list[list[pa.Array]] = [[] for _ in places]
    with open_text(head.path, head.encoding) as stream:
        found = rows(stream, head.delimiter)
        next(found)  # the header
        for row in found:
            reading.rows_read += 1
            if fault := judge.fault(row):
                reading.kinds[fault.kind] += 1
                if reading.kinds[fault.kind] <= LISTED:
                    reading.faults.append(fault)
                continue
            good.append(pick(row.cells))
            if len(good) == CHUNK_ROWS:
                _flush(good, chunks)
    _flush(good, chunks)
    reading.columns = [pa.chunked_array(column, pa.large_string()) for column in chunks]
    return reading


def _flush(good: list[tuple[str, ...]], chunks: list[list[pa.Array]]) -> None:
    for place, cells in enumerate(zip(*good, strict=True)):
        # Anchor and positive are never blank here, so null can only mean an absent negative.
        chunks[place].append(pa.array([cell if cell.strip() else None for cell in cells], pa.large_string()))
    good.clear()


class _Judge:
    """Finds the first thing that is wrong with a row."""

    def __init__(self, head: Head, places: list[int], max_cell_characters: int) -> None:
        self.width = len(head.header)
        self.names = [name.strip() for name in head.header]
        self.places = places
        self.encoding = head.encoding
        self.longest = max_cell_characters

    def fault(self, row: Row) -> Fault | None:
        """Return what is wrong with the row, or None."""
        if not row.closed:
            opened = self._line_of(row, len(row.cells) - 1)
            swallowed = f"a quote that opens here is never closed: {cut(row.cells[-1])}"
            return Fault("unclosed", swallowed, opened)
        if len(row.cells) != self.width:
            return Fault("ragged", self._ragged(row), row.line)
        if row.stray and (fault := self._stray_fault(row)):
            return fault
        for place in self.places:
            if fault := self._cell_fault(row, place):
                return fault
        return self._pair_fault(row)

    def _stray_fault(self, row: Row) -> Fault | None:
        # Such a cell swallowed rows. Without a line end in it, the text is what was meant, as in 5" or "a"b.
        for place in self.places:
            cell = row.cells[place]
            if '"' in cell and count_lines(cell):
                what = f"a quote that opens here closes {count_lines(cell)} lines later, in the middle of a cell"
                return Fault("stray", f"{what}: {cut(cell)}", self._line_of(row, place))
        return None

    def _ragged(self, row: Row) -> str:
        found = f"found {len(row.cells)} {'cell' if len(row.cells) == 1 else 'cells'}, the header has {self.width}"
        for place, cell in enumerate(row.cells):
            if count_lines(cell):
                found += f" (is the quote closed that opens on line {self._line_of(row, place)}?)"
                break
        return f"{found}: {cut(' | '.join(row.cells))}"

    def _cell_fault(self, row: Row, place: int) -> Fault | None:
        cell, name = row.cells[place], self.names[place]
        if (byte := undecodable_byte(cell)) is not None:
            what = f"column '{name}' has the byte 0x{byte:02X}, which is not {self.encoding}: {cut(cell)}"
            return Fault("undecodable", what, self._line_of(row, place))
        if "\0" in cell:
            return Fault("nul", f"column '{name}' has a NUL byte: {cut(cell)}", self._line_of(row, place))
        if len(cell) > self.longest:
            what = f"column '{name}' has {len(cell):,} characters, more than {self.longest:,}"
            opened = " (was the quote that opens here meant to close sooner?)" if count_lines(cell) else ""
            return Fault("long", f"{what}{opened}: {cut(cell)}", self._line_of(row, place))
        if place in self.places[:2] and not cell.strip():
            return Fault("empty", f"column '{name}' is empty: {cut(' | '.join(row.cells))}", row.line)
        return None

    def _pair_fault(self, row: Row) -> Fault | None:
        anchor, positive, *negatives = (row.cells[place] for place in self.places)
        if anchor == positive:
            return Fault("same", f"anchor and positive are the same text: {cut(anchor)}", row.line)
        if positive in negatives:
            return Fault("negative", f"a negative is the same text as the positive: {cut(positive)}", row.line)
        return None

    def _line_of(self, row: Row, place: int) -> int:
        """Return the line on which a cell begins: cells before it may span several."""
        return row.line + sum(count_lines(cell) for cell in row.cells[:place])
