"""The first look at a CSV file: is it there, is it text, what are its columns. Fast however large the file is."""

from __future__ import annotations

import codecs
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from finetune.data.csv_text import cut, open_text, rows, undecodable_byte
from finetune.data.paths import beside
from finetune.errors import CheckFailed, Problem

HEAD_CHARACTERS = 1 << 20
KEY = "data.path"

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive or an Excel workbook (xlsx)",
    b"PAR1": "Parquet",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"\x7fELF": "a program",
}
CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\x0b\x0c\x1b"))
WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Head:
    """A CSV file that can be read: where it is, how it is called in messages, its dialect and its header."""

    path: Path
    shown: str
    delimiter: str
    encoding: str
    header: list[str]


def read_head(path: Path, shown: str, delimiter: str, encoding: str) -> Head:
    """Read the header of a CSV file; raises `CheckFailed` with the one thing that stands in the way."""
    try:
        start = _first_bytes(path, shown)
        _refuse_binary(start, shown, encoding)
        _refuse_wrong_mark(start, shown, encoding)
        with open_text(path, encoding) as stream:
            text = stream.read(HEAD_CHARACTERS)
    except OSError as error:
        _refuse(KEY, f"'{shown}' cannot be read: {error.strerror}.", "Check who may read it.")
    header = _header(text, shown, delimiter, encoding)
    return Head(path, shown, delimiter, encoding, header)


def _refuse(where: str, what: str, advice: str = "") -> NoReturn:
    raise CheckFailed([Problem(where, what, advice)])


def _first_bytes(path: Path, shown: str) -> bytes:
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix.lower() in {".csv", ".tsv"})
        there = f" It holds: {', '.join(inside[:5])}." if inside else ""
        _refuse(KEY, f"'{shown}' is a folder.", f"Name the CSV file in it.{there}")
    if not path.exists():
        _refuse(KEY, f"there is no file '{shown}'.", beside(path))
    if not path.is_file():
        _refuse(KEY, f"'{shown}' is no ordinary file.", "Save the data to a file first.")
    with path.open("rb") as stream:
        return stream.read(1 << 16)


def _refuse_binary(start: bytes, shown: str, encoding: str) -> None:
    # The marks of UTF-16 and UTF-32, and their many NULs, would pass for binary.
    if start.startswith(tuple(mark for mark, _ in WIDE_MARKS)) or _codec(encoding).startswith(("utf-16", "utf-32")):
        return
    if kind := next((name for magic, name in MAGIC.items() if start.startswith(magic)), None):
        _refuse(KEY, f"'{shown}' is not a text file; it looks like {kind}.", "Save it as CSV text (UTF-8).")
    strange = len(start) - len(start.translate(None, CONTROLS))
    # A stray control character is a bad row, a tenth of them is no text; in a few bytes there is no telling.
    if len(start) >= 64 and strange > 0.1 * len(start):
        wide = start.count(0) > 0.3 * len(start)
        advice = "If it is text, try data.encoding=utf-16." if wide else "Save it as CSV text (UTF-8)."
        _refuse(KEY, f"'{shown}' is not a text file: it is full of control characters.", advice)


def _codec(encoding: str) -> str:
    return codecs.lookup(encoding).name


def _refuse_wrong_mark(start: bytes, shown: str, encoding: str) -> None:
    codec = _codec(encoding)
    for mark, name in WIDE_MARKS:
        if start.startswith(mark):
            if not codec.startswith(name):
                what = f"'{shown}' begins with the byte-order mark of {name}, but data.encoding is {encoding}."
                _refuse("data.encoding", what, f"Set data.encoding={name}.")
            return
    if start.startswith(codecs.BOM_UTF8) and not codec.startswith("utf"):
        what = f"'{shown}' begins with the byte-order mark of utf-8, but data.encoding is {encoding}."
        _refuse("data.encoding", what, "Set data.encoding=utf-8.")


def _header(text: str, shown: str, delimiter: str, encoding: str) -> list[str]:
    found = rows(io.StringIO(text, newline=""), delimiter)
    first, second = next(found, None), next(found, None)
    if first is None:
        _refuse(KEY, f"'{shown}' is empty.", "It needs a header and at least two rows.")
    place = f"{shown}:{first.line}"
    if not first.closed or (len(text) == HEAD_CHARACTERS and second is None):
        _refuse(place, "a quote that opens in the header is never closed.", 'Close it, or write it twice ("").')
    byte = next((byte for cell in first.cells if (byte := undecodable_byte(cell)) is not None), None)
    if byte is not None:
        advice = "Set data.encoding=cp1252 (Windows, Excel) or latin-1."
        _refuse(place, f"the header has the byte 0x{byte:02X}, which is not {encoding}.", advice)
    if any("\0" in cell for cell in first.cells):
        _refuse(place, "the header has a NUL byte.", "Remove it, or set data.encoding if the file is utf-16.")
    names = [name.strip() for name in first.cells]
    if len(names) < 2:
        _refuse(place, f"there is one column only, '{cut(text=names[0])}'; pairs need two.", _other_delimiter(names[0]))
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        _refuse(place, f"the header has the name '{cut(twice[0])}' more than once.", "Give every column its own name.")
    if second is None:
        _refuse(place, "there is a header and nothing below it.", "It needs at least two rows.")
    return first.cells


def _other_delimiter(header: str) -> str:
    for delimiter, shown in ((";", ";"), ("\t", r"\t"), ("|", "|"), (",", ",")):
        if delimiter in header:
            return f"""If its cells are parted by '{shown}', set 'data.delimiter="{shown}"'."""
    return "The first row names the columns, as in question,answer."
