"""The text of a CSV file, row by row, without ever failing: the careful reading, slow beside Arrow's."""

from __future__ import annotations

import codecs
import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

UNDECODABLE = 0xDC00  # a byte b that cannot be decoded becomes the lone surrogate U+DC00 + b
_HANDLER = "finetune.undecodable"


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(UNDECODABLE + byte) for byte in error.object[error.start : error.end]), error.end


# Python's own `surrogateescape` does the same for UTF-8, but gives up on bytes below 128, which UTF-16 can have wrong.
codecs.register_error(_HANDLER, _mark_undecodable)


class Row(NamedTuple):
    """One row: the line of the file it begins in (from 1), its cells, and how its quotes stand.

    `closed`: its last quote was closed before the file ended. `stray`: it spans lines, and a closing quote is followed
    by more text, as happens where a quote was forgotten and the next one, rows below, was taken for its end.
    """

    line: int
    cells: list[str]
    closed: bool
    stray: bool


def python_codec(encoding: str) -> str:
    """Return the codec for `encoding` that takes a byte-order mark for what it is."""
    name = codecs.lookup(encoding).name
    return "utf-8-sig" if name == "utf-8" else name


def open_text(path: Path, encoding: str) -> TextIO:
    """Open a file so that every byte can be read: those that cannot be decoded come as marked characters."""
    return path.open(encoding=python_codec(encoding), errors=_HANDLER, newline="")


def rows(stream: TextIO, delimiter: str) -> Iterator[Row]:
    """Yield all rows that are not blank, the header too, however long their cells are."""
    ended = False
    raw: list[str] = []

    def lines() -> Iterator[str]:
        nonlocal ended
        for text in stream:
            raw.append(text)
            yield text
        ended = True

    with _unlimited_cells():
        reader = csv.reader(lines(), delimiter=delimiter)
        line = 1
        for cells in reader:
            # A whole row is handed out before the next line is asked for: a row that comes after the end of
            # the file was asked for is one whose quote is still open.
            if cells:
                yield Row(line, cells, closed=not ended, stray=len(raw) > 1 and not _strict(raw, delimiter))
            raw.clear()
            line = reader.line_num + 1


def _strict(raw: list[str], delimiter: str) -> bool:
    try:
        return len(list(csv.reader(raw, delimiter=delimiter, strict=True))) == 1
    except csv.Error:
        return False


@contextmanager
def _unlimited_cells() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def undecodable_byte(text: str) -> int | None:
    """Return the first byte that could not be decoded, if there is one."""
    if text.isascii():
        return None
    marked = (ord(char) - UNDECODABLE for char in text if UNDECODABLE <= ord(char) < UNDECODABLE + 256)
    return next(marked, None)


def count_lines(text: str) -> int:
    """Return how many line ends `text` has."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def cut(text: str, width: int = 60) -> str:
    """Return `text` on one printable line of at most `width` characters, for a message."""
    line = " ".join(text[: 4 * width].split())
    shown = "".join(char if char.isprintable() else _escaped(char) for char in line[: width + 1])
    return shown if len(shown) <= width and len(text) <= 4 * width else shown[: width - 1] + "…"


def _escaped(char: str) -> str:
    code = ord(char)
    if UNDECODABLE <= code < UNDECODABLE + 256:
        code -= UNDECODABLE
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
