"""The first look at a CSV file: its dialect and its columns. Fast however large the file is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn

from finetune.config.quoting import quoted, typed
from finetune.data.bad_rows import cut
from finetune.data.schema.column_spec import quoted_names
from finetune.data.schema.number_formats import COMMA, Notation, detect_notation
from finetune.data.source import Head, ReadOptions
from finetune.data.sources.csv_text import (
    NO_DELIMITER,
    Dialect,
    EndlessRowError,
    Row,
    SepLine,
    find_sep_line,
    open_text,
    read_rows,
    undecodable_byte,
)
from finetune.data.sources.dialect import DELIMITERS, Ambiguous, Candidate, better_delimiter, first_rows, sniff
from finetune.data.sources.errors import check_unique_names, fail
from finetune.data.sources.files import DataFile, fail_unreadable
from finetune.data.sources.header import has_header

HEAD_CHARACTERS = 1 << 20
SAMPLE = 20


@dataclass(frozen=True)
class CsvHead:
    """A CSV file that can be read: its dialect, the names of its columns and whether its first row holds them.

    `lines_before` counts the lines before the table: 1 where the file begins with Excel's `sep=;`.
    """

    file: DataFile
    dialect: Dialect
    encoding: str
    names: list[str]
    named: bool
    sample: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lines_before: int = 0
    notations: dict[str, Notation] = field(default_factory=dict)

    def head(self) -> Head:
        """Return what every source says of itself."""
        return Head(self.names, list(self.sample), self.named, self.notes, self.notations)


def read_head(file: DataFile, options: ReadOptions, like: CsvHead | None = None) -> CsvHead:
    """Look at the start of a CSV file. `like` is the head of the first of several files that belong together.

    Raises:
        CheckFailed: the one thing that stands in the way, also where the dialect or the header is open.
    """
    try:
        with open_text(file, options.encoding) as stream:
            text = stream.read(HEAD_CHARACTERS)
            whole = len(text) < HEAD_CHARACTERS
    except OSError as error:
        fail_unreadable(file.shown, error)
    sep = find_sep_line(text)
    if sep:
        text = text.removeprefix(sep.text)
    if sep and options.delimiter == "auto":
        options = replace(options, delimiter=sep.delimiter)
    lines_before = int(sep is not None)
    first = next(_rows(text, Dialect(",")), None)
    if first is None:
        fail("data.path", f"'{file.shown}' is empty.", "It needs at least two rows.")
    dialect = _as(like, text, whole) or _dialect(text, whole, file, options, 1 + lines_before)
    found = _rows(text, dialect, 1 + lines_before)
    first, second = next(found, first), next(found, None)
    place = f"{file.shown}:{first.line}"
    _check_first(first, second, place, whole, options.encoding)
    sample = first_rows(text, whole, dialect)
    named = _named(sample, file, options, like)
    names = first.cells if named else [str(i + 1) for i in range(len(first.cells))]
    if named:
        check_unique_names(names, place, "the header")
        if second is None:
            fail(place, "there is a header and nothing below it.", "It needs at least two rows.")
    below = [tuple(row) for row in sample[named:] if len(row) == len(names)]
    notations = _notations(names, below, dialect, options)
    notes = _notes(file, dialect, named, options, sep, notations)
    return CsvHead(file, dialect, options.encoding, names, named, below[:SAMPLE], notes, lines_before, notations)


def _rows(text: str, dialect: Dialect, first_line: int = 1) -> Iterator[Row]:
    try:
        yield from read_rows(io.StringIO(text, newline=""), dialect, first_line)
    except EndlessRowError:  # cannot be: the text is shorter
        return


def _as(like: CsvHead | None, text: str, whole: bool) -> Dialect | None:
    """Return the dialect of the first file if it fits this one too: its few rows need not tell it once more."""
    if like is None:
        return None
    found = first_rows(text, whole, like.dialect)
    return like.dialect if len(found[0]) == len(like.names) else None


def _dialect(text: str, whole: bool, file: DataFile, options: ReadOptions, first_line: int) -> Dialect:
    suffix = "." + file.name.rpartition(".")[2]
    found = sniff(text, whole, options.delimiter, suffix)
    if isinstance(found, Ambiguous):
        _refuse_dialects(file, found.readings)
    if options.delimiter not in ("auto", "none"):
        first = first_rows(text, whole, found)[0]
        if better := better_delimiter(text, whole, len(first), options.delimiter):
            what = f"there is one column only, '{cut(first[0])}'."
            advice = f"If its cells are parted by '{_shown(better)}', set {_setting(better)}."
            fail(f"{file.shown}:{first_line}", what, advice)
    return found


def _refuse_dialects(file: DataFile, readings: list[Candidate]) -> NoReturn:
    ways = [
        f"with {DELIMITERS.get(each.dialect.delimiter, '')} between cells its first row is {_row_shown(each.rows[0])}"
        if each.dialect.delimiter != NO_DELIMITER
        else f"as one column its first text is {_row_shown(each.rows[0])}"
        for each in readings
    ]
    what = f"'{file.shown}' can be read in {'two' if len(ways) == 2 else 'several'} ways: {'; '.join(ways)}."
    settings = [_setting(each.dialect.delimiter) for each in readings]
    fail("data.delimiter", what, f"Say which is right: {' or '.join(settings)}.")


def _row_shown(cells: list[str]) -> str:
    shown = [f"'{cut(cell, 30)}'" for cell in cells[:6]]
    more = f" and {len(cells) - 6} more" if len(cells) > 6 else ""
    return f"{' | '.join(shown)}{more}"


def _shown(delimiter: str) -> str:
    return r"\t" if delimiter == "\t" else delimiter


def _setting(delimiter: str) -> str:
    value = "none" if delimiter == NO_DELIMITER else quoted(_shown(delimiter))
    return typed("data.delimiter", value)


def _check_first(first: Row, second: Row | None, place: str, whole: bool, encoding: str) -> None:
    if not first.closed or (not whole and second is None):
        fail(place, "a quote that opens in the header is never closed.", 'Close it, or write it twice ("").')
    byte = next((byte for cell in first.cells if (byte := undecodable_byte(cell)) is not None), None)
    if byte is not None:
        advice = "Set data.encoding=cp1252 (Windows, Excel) or latin-1."
        fail(place, f"the header has the byte 0x{byte:02X}, which is not {encoding}.", advice)
    if any("\0" in cell for cell in first.cells):
        fail(place, "the header has a NUL byte.", "Remove it, or set data.encoding if the file is utf-16.")


def _named(sample: list[list[str]], file: DataFile, options: ReadOptions, like: CsvHead | None) -> bool:
    if options.header != "auto":
        return bool(options.header)
    if like is not None and len(sample[0]) == len(like.names):
        return like.named
    found = has_header(sample)
    if found is None and len(sample[0]) == 1:
        return file.name.endswith((".csv", ".tsv")) and len(sample) == 1
    if found is None:
        first = _row_shown(sample[0])
        below = f"; the row below is {_row_shown(sample[1])}" if len(sample) > 1 else ""
        what = f"'{file.shown}' can be read in two ways: its first row, {first}, is a header or a row of data{below}."
        fail("data.header", what, "Say which is right: data.header=true or data.header=false.")
    return found


def _notations(
    names: list[str], below: list[tuple[str, ...]], dialect: Dialect, options: ReadOptions
) -> dict[str, Notation]:
    """Return the columns whose numbers have a decimal comma; where commas separate cells, numbers have none."""
    if options.decimal != "auto" or dialect.delimiter == ",":
        return {}
    found = {name: detect_notation([row[i] for row in below]) for i, name in enumerate(names)}
    return {name: notation for name, notation in found.items() if notation is not None}


def _notes(
    file: DataFile,
    dialect: Dialect,
    named: bool,
    options: ReadOptions,
    sep: SepLine | None,
    notations: dict[str, Notation],
) -> list[str]:
    """Return the sentence that says what was recognised, if it is anything but commas and a header."""
    found = []
    if sep:
        between = DELIMITERS.get(dialect.delimiter, f"'{dialect.delimiter}'")
        found.append(f"{between} between cells and without its first line ({cut(sep.text)})")
    if options.delimiter == "auto" and dialect.delimiter != ",":
        one_column = dialect.delimiter == NO_DELIMITER
        found.append("one column" if one_column else f"{DELIMITERS.get(dialect.delimiter, 'tabs')} between cells")
    if dialect.quote == "'":
        found.append("cells in single quotes")
    if dialect.escape:
        found.append("a backslash before quotes")
    if not dialect.quote and dialect.delimiter != NO_DELIMITER:
        found.append("quotes as plain characters")
    if commas := [name for name, notation in notations.items() if notation == COMMA]:
        found.append(f"a decimal comma in {quoted_names(name.strip() for name in commas)}")
    if options.header == "auto" and not named:
        found.append("no header")
    return [f"{file.shown} was read with {', '.join(found)}."] if found else []
