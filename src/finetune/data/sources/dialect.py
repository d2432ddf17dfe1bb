"""The CSV dialect of a text: the delimiter between cells, and how cells are quoted.

A delimiter is detected where it splits every row into the same number of cells, two or more, with valid quotes. Texts
contain commas too, but not equally many in every row. Where two dialects fit, the result is `Ambiguous`, and the user
has to choose.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from finetune.data.schema.layouts import is_role_name
from finetune.data.schema.number_formats import detect_notation
from finetune.data.sources.csv_text import NO_DELIMITER, Dialect, EndlessRowError, has_valid_quotes, read_rows

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
USUAL = {".tsv": "\t", ".tab": "\t", ".psv": "|"}
MOST_ROWS = 500
MOST_CHARACTERS = 1 << 18
# The share of rows of the same width with which a file is surely a table (with bad rows), and may be one.
SURELY, PERHAPS = 0.8, 0.5
FEW_ROWS = 5


@dataclass(frozen=True)
class Candidate:
    """The first rows of a text in one dialect; `strict`: all quotes are valid."""

    dialect: Dialect
    rows: list[list[str]]
    strict: bool

    @property
    def width(self) -> int:
        """The number of cells of the first row."""
        return len(self.rows[0])

    @property
    def share(self) -> float:
        """The share of rows that are as wide as the first."""
        return sum(len(row) == self.width for row in self.rows) / len(self.rows)

    @property
    def fits(self) -> bool:
        """Whether this is a table without any fault."""
        return self.width > 1 and self.share == 1 and self.strict

    @property
    def names_roles(self) -> int:
        """The number of cells of the first row that name a role."""
        if self.width < 2:
            return 0
        return sum(map(is_role_name, self.rows[0]))


@dataclass(frozen=True)
class Ambiguous:
    """A text that can be read in several dialects."""

    candidates: list[Candidate]


def sniff(text: str, is_whole: bool, delimiter: str, suffix: str) -> Dialect | Ambiguous:
    """Return the dialect of a text that has at least one row.

    `is_whole`: the text is the whole file. `delimiter` is one character, `none` for a single column, or `auto`.
    `suffix` is that of the file's name.
    """
    lines = _complete_lines(text, is_whole)
    if delimiter == "none":
        return _one_column(lines, suffix)
    if delimiter == "auto":
        return _detect(text, lines, suffix)
    plain = _read(lines, Dialect(delimiter))
    fitting = _with_other_quotes(lines, plain) or plain
    return fitting.dialect if fitting.fits else plain.dialect


def _detect(text: str, lines: list[str], suffix: str) -> Dialect | Ambiguous:
    """Return the dialect of lines whose delimiter is not given."""
    plain = [_read(lines, Dialect(delimiter)) for delimiter in DELIMITERS if delimiter in text]
    fitting = [_with_other_quotes(lines, candidate) or candidate for candidate in plain]
    fitting = [candidate for candidate in fitting if candidate.fits]
    found = _without_decimal_commas(fitting or _nearly_fitting(plain))
    if len(found) > 1:
        usual = [candidate for candidate in found if candidate.dialect.delimiter == USUAL.get(suffix)]
        found = usual or _best_named(found)
    if len(found) > 1:
        return Ambiguous(found)
    if found and (fitting or found[0].names_roles or found[0].share >= SURELY):
        return found[0].dialect
    one_column = _one_column(lines, suffix)
    possible = found or [candidate for candidate in plain if _fits_below(candidate)]
    if possible:
        return Ambiguous([*possible, _read(lines, one_column)])
    return one_column


def better_delimiter(text: str, is_whole: bool, width: int, given: str) -> str | None:
    """Return a usual delimiter that fits where the given one leaves a single cell in every row."""
    if width > 1 or given == "none":
        return None
    found = sniff(text, is_whole, "auto", "")
    if isinstance(found, Ambiguous) or found.delimiter in (given, NO_DELIMITER):
        return None
    return found.delimiter


def first_rows(text: str, is_whole: bool, dialect: Dialect) -> list[list[str]]:
    """Return the first rows, without an incomplete one at the end of the text."""
    return _read(_complete_lines(text, is_whole), dialect).rows


def _complete_lines(text: str, is_whole: bool) -> list[str]:
    """Return the lines of the first part of the text, without an incomplete last one unless it is the only one."""
    lines = list(io.StringIO(text[:MOST_CHARACTERS], newline=""))
    is_incomplete = not is_whole or len(text) > MOST_CHARACTERS
    if is_incomplete and len(lines) > 1:
        lines.pop()
    return lines


def _read(lines: list[str], dialect: Dialect) -> Candidate:
    stream = io.StringIO("".join(lines), newline="")
    try:
        found = list(islice(read_rows(stream, dialect), MOST_ROWS))
    except EndlessRowError:  # impossible: the text is shorter
        found = []
    # A quote may still be open at the end of the text: that is not a fault, but the row is incomplete.
    if len(found) > 1 and not found[-1].closed:
        last = found.pop()
        lines = lines[: last.line - 1]
    return Candidate(dialect, [row.cells for row in found] or [[""]], has_valid_quotes(lines, dialect))


def _with_other_quotes(lines: list[str], plain: Candidate) -> Candidate | None:
    """Return a candidate with other quotes, if only that makes a table, or if they are certainly quotes."""
    delimiter = plain.dialect.delimiter
    if any("'" in line for line in lines):
        single = _read(lines, Dialect(delimiter, quote="'"))
        are_quotes = _has_quoted_column(plain) or (not plain.fits and _has_special_cells(single))
        if single.fits and are_quotes:
            return single
    if plain.fits:
        return None
    if any('\\"' in line for line in lines):
        escaped = _read(lines, Dialect(delimiter, escape="\\"))
        if escaped.fits:
            return escaped
    if delimiter == "\t":
        # In files with tabs, quotes are often plain characters: none is needed to write a comma.
        unquoted = _read(lines, Dialect(delimiter, quote=""))
        if unquoted.fits:
            return unquoted
    return None


def _has_quoted_column(reading: Candidate) -> bool:
    """Whether all cells of a column, with that of the first row, are in single quotes."""
    if len(reading.rows) < 2:
        return False
    return any(all(_is_single_quoted(row, index) for row in reading.rows) for index in range(reading.width))


def _is_single_quoted(row: list[str], index: int) -> bool:
    if index >= len(row) or len(row[index]) < 2:
        return False
    return row[index][0] == row[index][-1] == "'"


def _has_special_cells(reading: Candidate) -> bool:
    """Whether a cell has a delimiter or a line end in it, which needs quotes around it."""
    special = (reading.dialect.delimiter, "\n", "\r")
    return any(mark in cell for row in reading.rows for cell in row for mark in special)


def _nearly_fitting(plain: list[Candidate]) -> list[Candidate]:
    """Return the candidates that are tables with some bad rows: those with a known header, else the surest."""
    wide = [candidate for candidate in plain if candidate.width > 1]
    named = [candidate for candidate in wide if candidate.names_roles]
    if named:
        return named
    sure = [candidate for candidate in wide if candidate.share >= SURELY]
    return sure or [candidate for candidate in wide if candidate.share >= PERHAPS]


def _without_decimal_commas(found: list[Candidate]) -> list[Candidate]:
    """Return the candidates without the one by commas, if in another one all commas are inside numbers, as in `0,5`."""
    others = [candidate for candidate in found if candidate.dialect.delimiter != ","]
    if any(map(_has_decimal_commas, others)):
        return others
    return found


def _has_decimal_commas(reading: Candidate) -> bool:
    columns = zip(*(row for row in reading.rows[1:] if len(row) == reading.width), strict=True)
    with_commas = [cells for cells in columns if any("," in cell for cell in cells)]
    return bool(with_commas) and all(detect_notation(cells) is not None for cells in with_commas)


def _best_named(found: list[Candidate]) -> list[Candidate]:
    most = max(candidate.names_roles for candidate in found)
    return [candidate for candidate in found if candidate.names_roles == most]


def _fits_below(reading: Candidate) -> bool:
    """Whether nearly all rows but the first are equally wide: the first is then not their header."""
    widths = Counter(len(row) for row in reading.rows[1:])
    if widths.total() < FEW_ROWS:
        return False
    width, count = widths.most_common(1)[0]
    return width > 1 and width != reading.width and count >= 0.95 * widths.total()


def _one_column(lines: list[str], suffix: str) -> Dialect:
    """Return the dialect of a file with one text per line; the lines decide whether its quotes are quotes."""
    quoted = Dialect(NO_DELIMITER)
    has_quotes = any(line.startswith('"') for line in lines)
    reading = _read(lines, quoted)
    if not reading.strict or (suffix not in (".csv", ".tsv") and not has_quotes):
        return Dialect(NO_DELIMITER, quote="")
    return quoted
