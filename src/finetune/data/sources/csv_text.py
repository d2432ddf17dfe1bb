"""The text of a CSV file, row by row, without ever failing: the careful reading, slow beside Arrow's."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO

from finetune.data.bad_rows import UNDECODABLE
from finetune.data.sources.files import DataFile

ROW_CHARACTERS = 64 << 20  # of a row at most: a forgotten quote must not draw a whole file into memory
MARK_UNDECODABLE = "finetune.undecodable"  # how to decode so that every byte can be read, and the bad ones found

_MARKED = re.compile(f"[{chr(UNDECODABLE)}-{chr(UNDECODABLE + 255)}]")
# What Excel reads and writes as a first line; saved by another program it may be quoted, or be as wide as the table.
_SEP_LINE = re.compile(r'\ufeff?("?)sep=(?P<delimiter>\\t|[^"\r\n])\1(?P=delimiter)*(\r\n|\r|\n|$)', re.IGNORECASE)
NO_DELIMITER = "\x1f"  # between cells where there is only one column: no text has it


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(UNDECODABLE + byte) for byte in error.object[error.start : error.end]), error.end


# Python's own `surrogateescape` does the same for UTF-8, but gives up on bytes below 128, which UTF-16 can have wrong.
codecs.register_error(MARK_UNDECODABLE, _mark_undecodable)


@dataclass(frozen=True)
class Dialect:
    """What parts the cells, what quotes them (nothing where `quote` is empty), and what stands before a plain quote."""

    delimiter: str
    quote: str = '"'
    escape: str = ""

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of Python's `csv.reader`."""
        return {
            "delimiter": self.delimiter,
            "quotechar": self.quote or None,
            "quoting": csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            "escapechar": self.escape or None,
        }


class Row(NamedTuple):
    """One row: the line of the file it begins in (from 1), its cells, and how its quotes stand.

    `closed`: its last quote was closed before the file ended. `stray`: it spans lines, and a closing quote is followed
    by more text, as happens where a quote was forgotten and the next one, rows below, was taken for its end.
    """

    line: int
    cells: list[str]
    closed: bool
    stray: bool


class SepLine(NamedTuple):
    """The line `sep=;` as it is in the file, with its end, and the delimiter that it names."""

    text: str
    delimiter: str


class EndlessRowError(Exception):
    """A row that goes on for `ROW_CHARACTERS`; `line` is where it begins."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def python_codec(encoding: str) -> str:
    """Return the codec for `encoding` that takes a byte-order mark for what it is."""
    name = codecs.lookup(encoding).name
    return "utf-8-sig" if name == "utf-8" else name


def open_text(file: DataFile, encoding: str) -> TextIO:
    """Open a file so that every byte can be read: those that cannot be decoded come as marked characters."""
    return io.TextIOWrapper(file.open(), encoding=python_codec(encoding), errors=MARK_UNDECODABLE, newline="")


def find_sep_line(text: str) -> SepLine | None:
    """Return Excel's own first line, `sep=;`, which names the delimiter and is no row; None if there is none."""
    found = _SEP_LINE.match(text)
    return SepLine(found[0], "\t" if found["delimiter"] == r"\t" else found["delimiter"]) if found else None


def read_rows(stream: TextIO, dialect: Dialect, first_line: int = 1) -> Iterator[Row]:
    """Yield all rows that are not blank, the header too, however long their cells are.

    `first_line` is the number of the line that the stream is at.

    Raises:
        EndlessRow: a row is longer than fits into memory for sure.
    """
    ended = False
    raw: list[str] = []
    line = first_line

    def lines() -> Iterator[str]:
        nonlocal ended
        size = 0
        while text := stream.readline(ROW_CHARACTERS):
            size = len(text) if not raw else size + len(text)
            if size >= ROW_CHARACTERS:
                raise EndlessRowError(line)
            raw.append(text)
            yield text
        ended = True

    with _unlimited_cells():
        reader = csv.reader(lines(), **dialect.keywords())
        for cells in reader:
            # A whole row is handed out before the next line is asked for: a row that comes after the end of
            # the file was asked for is one whose quote is still open.
            if cells:
                yield Row(line, cells, closed=not ended, stray=len(raw) > 1 and not has_valid_quotes(raw, dialect))
            raw.clear()
            line = reader.line_num + first_line


def has_valid_quotes(lines: Iterable[str], dialect: Dialect) -> bool:
    """Whether every quote in these lines stands where it must."""
    try:
        for _ in csv.reader(lines, strict=True, **dialect.keywords()):
            pass
    except csv.Error:
        return False
    return True


@contextmanager
def _unlimited_cells() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def undecodable_byte(text: str) -> int | None:
    """Return the first byte that could not be decoded, if there is one."""
    found = None if text.isascii() else _MARKED.search(text)
    return ord(found[0]) - UNDECODABLE if found else None


def count_line_ends(text: str) -> int:
    """Return how many line ends `text` has."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")
