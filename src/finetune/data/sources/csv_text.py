"""The text of a CSV file, row by row, whatever its content: slow compared with Arrow's reader."""

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

ROW_CHARACTERS = 64 << 20  # of a row at most: an unclosed quote must not read a whole file into memory
MARK_UNDECODABLE = "finetune.undecodable"  # error handler that marks undecodable bytes instead of raising

_MARKED = re.compile(f"[{chr(UNDECODABLE)}-{chr(UNDECODABLE + 255)}]")
# Excel's own first line; saved by another program it may be quoted, or be as wide as the table.
_SEP_LINE = re.compile(r'\ufeff?("?)sep=(?P<delimiter>\\t|[^"\r\n])\1(?P=delimiter)*(\r\n|\r|\n|$)', re.IGNORECASE)
NO_DELIMITER = "\x1f"  # the delimiter of a file with one column: no text contains it


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(UNDECODABLE + byte) for byte in error.object[error.start : error.end]), error.end


# Python's own `surrogateescape` does the same for UTF-8, but gives up on bytes below 128, which UTF-16 can have wrong.
codecs.register_error(MARK_UNDECODABLE, _mark_undecodable)


@dataclass(frozen=True)
class Dialect:
    """What separates cells, what quotes them (nothing where `quote` is empty), and what escapes a quote."""

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
    """One row: the line of the file it begins in (from 1), its cells, and the state of its quotes.

    `closed`: its last quote was closed before the end of the file. `stray`: it spans lines, and a closing quote is
    followed by more text, as where a closing quote is missing and the next quote, rows below, was read as one.
    """

    line: int
    cells: list[str]
    closed: bool
    stray: bool


class SepLine(NamedTuple):
    """The line `sep=;` as it is in the file, with its line end, and the delimiter that it names."""

    text: str
    delimiter: str


class EndlessRowError(Exception):
    """A row is longer than `ROW_CHARACTERS`; `line` is where it begins."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def python_codec(encoding: str) -> str:
    """Return the codec for `encoding` that removes a byte-order mark."""
    name = codecs.lookup(encoding).name
    return "utf-8-sig" if name == "utf-8" else name


def open_text(file: DataFile, encoding: str) -> TextIO:
    """Open a file so that every byte can be read: undecodable bytes become marked characters."""
    return io.TextIOWrapper(file.open(), encoding=python_codec(encoding), errors=MARK_UNDECODABLE, newline="")


def find_sep_line(text: str) -> SepLine | None:
    """Return Excel's own first line, `sep=;`, which names the delimiter and is not a row; None if there is none."""
    found = _SEP_LINE.match(text)
    if found is None:
        return None
    delimiter = found["delimiter"]
    if delimiter == r"\t":
        delimiter = "\t"
    return SepLine(found[0], delimiter)


def read_rows(stream: TextIO, dialect: Dialect, first_line: int = 1) -> Iterator[Row]:
    """Yield all rows that are not blank, with the header, however long their cells are.

    `first_line` is the number of the line that the stream is at.

    Raises:
        EndlessRowError: a row is longer than `ROW_CHARACTERS`.
    """
    ended = False
    raw: list[str] = []
    line = first_line

    def lines() -> Iterator[str]:
        nonlocal ended
        size = 0
        while text := stream.readline(ROW_CHARACTERS):
            if not raw:
                size = 0
            size += len(text)
            if size >= ROW_CHARACTERS:
                raise EndlessRowError(line)
            raw.append(text)
            yield text
        ended = True

    with _unlimited_cells():
        reader = csv.reader(lines(), **dialect.keywords())
        for cells in reader:
            # The reader returns a complete row before it requests the next line: a row returned after the end of the
            # file was reached has an open quote.
            if cells:
                stray = len(raw) > 1 and not has_valid_quotes(raw, dialect)
                yield Row(line, cells, closed=not ended, stray=stray)
            raw.clear()
            line = reader.line_num + first_line


def has_valid_quotes(lines: Iterable[str], dialect: Dialect) -> bool:
    """Whether every quote in these lines is at the start or the end of a cell, or doubled."""
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
    """Return the first byte that could not be decoded, None if there is none."""
    if text.isascii():
        return None
    found = _MARKED.search(text)
    if found is None:
        return None
    return ord(found[0]) - UNDECODABLE


def count_line_ends(text: str) -> int:
    """Return the number of line ends in `text`."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")
