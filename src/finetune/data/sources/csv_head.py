"""The start of a CSV file: its dialect and its columns. Only the first part of the file is read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
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
    """The dialect of a CSV file, the names of its columns and whether its first row holds them.

    `lines_before` is the number of lines before the table: 1 where the file begins with Excel's `sep=;`.
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
        """Return the head that every source has."""
        return Head(self.names, list(self.sample), self.named, self.notes, self.notations)


def read_head(file: DataFile, options: ReadOptions, like: CsvHead | None = None) -> CsvHead:
    """Read the start of a CSV file; `like` is the head of the first of several files with the same columns.

    Raises:
        CheckFailed: the file cannot be read, or its dialect or header is ambiguous.
    """
    try:
        with open_text(file, options.encoding) as stream:
            text = stream.read(HEAD_CHARACTERS)
            is_whole = len(text) < HEAD_CHARACTERS
    except OSError as error:
        fail_unreadable(file.shown, error)
    sep = find_sep_line(text)
    lines_before = 0
    if sep is not None:
        text = text.removeprefix(sep.text)
        lines_before = 1
        if options.delimiter == "auto":
            options = replace(options, delimiter=sep.delimiter)
    rows_with_commas = list(islice(_rows(text, Dialect(",")), 1))
    if not rows_with_commas:
        fail("data.path", f"'{file.shown}' is empty.", "Name a file with rows.")
    dialect = _dialect_of_first_file(like, text, is_whole)
    if dialect is None:
        dialect = _dialect(text, is_whole, file, options, 1 + lines_before)
    first_two = list(islice(_rows(text, dialect, 1 + lines_before), 2)) or rows_with_commas
    first = first_two[0]
    location = f"{file.shown}:{first.line}"
    _check_first(first, location, options.encoding, is_complete=is_whole or len(first_two) > 1)
    sample = first_rows(text, is_whole, dialect)
    named = _has_names(sample, file, options, like)
    names = [str(index + 1) for index in range(len(first.cells))]
    rows = sample
    if named:
        names, rows = first.cells, sample[1:]
        check_unique_names(names, location, "the header")
        if len(first_two) == 1:
            fail(location, "there is a header and nothing below it.", "Write at least one row below it.")
    below = [tuple(row) for row in rows if len(row) == len(names)]
    notations = _notations(names, below, dialect, options)
    notes = _notes(file, dialect, named, options, sep, notations)
    return CsvHead(file, dialect, options.encoding, names, named, below[:SAMPLE], notes, lines_before, notations)


def _rows(text: str, dialect: Dialect, first_line: int = 1) -> Iterator[Row]:
    try:
        yield from read_rows(io.StringIO(text, newline=""), dialect, first_line)
    except EndlessRowError:  # impossible: the text is shorter
        return


def _dialect_of_first_file(like: CsvHead | None, text: str, is_whole: bool) -> Dialect | None:
    """Return the dialect of the first file if it fits this file too, which may have too few rows to detect one."""
    if like is None:
        return None
    found = first_rows(text, is_whole, like.dialect)
    if len(found[0]) != len(like.names):
        return None
    return like.dialect


def _dialect(text: str, is_whole: bool, file: DataFile, options: ReadOptions, first_line: int) -> Dialect:
    suffix = "." + file.name.rpartition(".")[2]
    found = sniff(text, is_whole, options.delimiter, suffix)
    if isinstance(found, Ambiguous):
        _fail_ambiguous(file, found.candidates)
    if options.delimiter not in ("auto", "none"):
        first = first_rows(text, is_whole, found)[0]
        better = better_delimiter(text, is_whole, len(first), options.delimiter)
        if better is not None:
            what = f"there is one column only, '{cut(first[0])}'."
            advice = f"If its cells are separated by '{_shown_delimiter(better)}', set {_setting(better)}."
            fail(f"{file.shown}:{first_line}", what, advice)
    return found


def _fail_ambiguous(file: DataFile, candidates: list[Candidate]) -> NoReturn:
    ways, settings = [], []
    for candidate in candidates:
        delimiter = candidate.dialect.delimiter
        first = _shown_row(candidate.rows[0])
        if delimiter == NO_DELIMITER:
            ways.append(f"as one column its first text is {first}")
        else:
            ways.append(f"with {DELIMITERS.get(delimiter, '')} between cells its first row is {first}")
        settings.append(_setting(delimiter))
    number = "two" if len(ways) == 2 else "several"
    what = f"'{file.shown}' can be read in {number} ways: {'; '.join(ways)}."
    fail("data.delimiter", what, f"Say which is right: {' or '.join(settings)}.")


def _shown_row(cells: list[str]) -> str:
    shown = " | ".join(f"'{cut(cell, 30)}'" for cell in cells[:6])
    if len(cells) > 6:
        shown += f" and {len(cells) - 6} more"
    return shown


def _shown_delimiter(delimiter: str) -> str:
    return delimiter.replace("\t", r"\t")


def _setting(delimiter: str) -> str:
    if delimiter == NO_DELIMITER:
        return typed("data.delimiter", "none")
    return typed("data.delimiter", quoted(_shown_delimiter(delimiter)))


def _check_first(first: Row, location: str, encoding: str, is_complete: bool) -> None:
    if not first.closed or not is_complete:
        fail(location, "a quote that opens in the header is never closed.", 'Close it, or write it twice ("").')
    for cell in first.cells:
        byte = undecodable_byte(cell)
        if byte is not None:
            advice = "Set data.encoding=cp1252 (Windows, Excel) or latin-1."
            fail(location, f"the header has the byte 0x{byte:02X}, which is not {encoding}.", advice)
    if any("\0" in cell for cell in first.cells):
        fail(location, "the header has a NUL byte.", "Remove it, or set data.encoding if the file is utf-16.")


def _has_names(sample: list[list[str]], file: DataFile, options: ReadOptions, like: CsvHead | None) -> bool:
    if options.header != "auto":
        return bool(options.header)
    if like is not None and len(sample[0]) == len(like.names):
        return like.named
    found = has_header(sample)
    if found is None and len(sample[0]) == 1:
        return file.name.endswith((".csv", ".tsv")) and len(sample) == 1
    if found is None:
        first = _shown_row(sample[0])
        what = f"'{file.shown}' can be read in two ways: its first row, {first}, is a header or a row of data"
        if len(sample) > 1:
            what += f"; the row below is {_shown_row(sample[1])}"
        fail("data.header", f"{what}.", "Say which is right: data.header=true or data.header=false.")
    return found


def _notations(
    names: list[str], below: list[tuple[str, ...]], dialect: Dialect, options: ReadOptions
) -> dict[str, Notation]:
    """Return the columns whose numbers have a decimal comma; where commas separate cells, numbers have none."""
    if options.decimal != "auto" or dialect.delimiter == ",":
        return {}
    found = {}
    for index, name in enumerate(names):
        notation = detect_notation([row[index] for row in below])
        if notation is not None:
            found[name] = notation
    return found


def _notes(
    file: DataFile,
    dialect: Dialect,
    named: bool,
    options: ReadOptions,
    sep: SepLine | None,
    notations: dict[str, Notation],
) -> list[str]:
    """Return a sentence on the detected dialect, if it is anything but commas and a header."""
    found = []
    if sep:
        between = DELIMITERS.get(dialect.delimiter, f"'{dialect.delimiter}'")
        found.append(f"{between} between cells and without its first line ({cut(sep.text)})")
    if options.delimiter == "auto" and dialect.delimiter != ",":
        if dialect.delimiter == NO_DELIMITER:
            found.append("one column")
        else:
            found.append(f"{DELIMITERS.get(dialect.delimiter, 'tabs')} between cells")
    if dialect.quote == "'":
        found.append("cells in single quotes")
    if dialect.escape:
        found.append("a backslash before quotes")
    if not dialect.quote and dialect.delimiter != NO_DELIMITER:
        found.append("quotes as plain characters")
    commas = [name for name, notation in notations.items() if notation == COMMA]
    if commas:
        found.append(f"a decimal comma in {quoted_names(name.strip() for name in commas)}")
    if options.header == "auto" and not named:
        found.append("no header")
    if not found:
        return []
    return [f"{file.shown} was read with {', '.join(found)}."]
