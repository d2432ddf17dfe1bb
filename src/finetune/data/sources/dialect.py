"""Which dialect of CSV a text is written in: what parts its cells, and how they are quoted.

A delimiter is recognised where it cuts every row into the same number of cells, two or more, with every quote where
it must stand. Texts have commas too, but not equally many in every row. What fits in two ways is a `Ambiguous`: then a
person has to say it.
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
# A file with so large a share of rows that fit is a table with bad rows; with less than the second, it is no table.
SURELY, PERHAPS = 0.8, 0.5
FEW_ROWS = 5


@dataclass(frozen=True)
class Candidate:
    """The first rows of a text as one dialect has them; `strict`: every quote stands where it must."""

    dialect: Dialect
    rows: list[list[str]]
    strict: bool

    @property
    def width(self) -> int:
        """How many cells the first row has."""
        return len(self.rows[0])

    @property
    def share(self) -> float:
        """The share of rows that are as wide as the first."""
        return sum(len(row) == self.width for row in self.rows) / len(self.rows)

    @property
    def fits(self) -> bool:
        """Whether this is a table without a single fault."""
        return self.width > 1 and self.share == 1 and self.strict

    @property
    def names_roles(self) -> int:
        """How many cells of the first row name a role."""
        return sum(is_role_name(cell) for cell in self.rows[0]) if self.width > 1 else 0


@dataclass(frozen=True)
class Ambiguous:
    """A text that reads in several ways."""

    readings: list[Candidate]


def sniff(text: str, whole: bool, delimiter: str, suffix: str) -> Dialect | Ambiguous:
    """Return the dialect of a text that has at least one row.

    `whole`: nothing was cut off at its end. `delimiter` is one character, `none` for a single column, or `auto`.
    `suffix` is that of the file's name.
    """
    lines = _complete_lines(text, whole)
    if delimiter == "none":
        return _one_column(lines, suffix)
    usual = USUAL.get(suffix, "")
    # A delimiter that does not occur makes no table.
    asked = [each for each in DELIMITERS if each in text] if delimiter == "auto" else [delimiter]
    plain = [_read(lines, Dialect(each)) for each in asked]
    fitting = [_quoted_otherwise(lines, each) or each for each in plain]
    fitting = [each for each in fitting if each.fits]
    if delimiter != "auto":
        return fitting[0].dialect if fitting else plain[0].dialect
    found = _without_decimal_commas(fitting or _nearly(plain))
    if len(found) > 1:
        found = [each for each in found if each.dialect.delimiter == usual] or _best_named(found)
    if len(found) > 1:
        return Ambiguous(found)
    if found and (fitting or found[0].names_roles or found[0].share >= SURELY):
        return found[0].dialect
    one_column = _one_column(lines, suffix)
    if found:
        return Ambiguous([*found, _read(lines, one_column)])
    headless = [each for each in plain if _fits_below(each)]
    return Ambiguous([*headless, _read(lines, one_column)]) if headless else one_column


def better_delimiter(text: str, whole: bool, width: int, told: str) -> str | None:
    """Return a usual delimiter that fits where the one that was told leaves a single cell in every row."""
    if width > 1 or told == "none":
        return None
    found = sniff(text, whole, "auto", "")
    return found.delimiter if isinstance(found, Dialect) and found.delimiter not in (told, NO_DELIMITER) else None


def first_rows(text: str, whole: bool, dialect: Dialect) -> list[list[str]]:
    """Return the first rows, without one that was cut off."""
    return _read(_complete_lines(text, whole), dialect).rows


def _complete_lines(text: str, whole: bool) -> list[str]:
    """Return the lines of the first part of the text, without one that was cut off unless it is the only one."""
    lines = list(io.StringIO(text[:MOST_CHARACTERS], newline=""))
    cut_off = not whole or len(text) > MOST_CHARACTERS
    return lines[:-1] if cut_off and len(lines) > 1 else lines


def _read(lines: list[str], dialect: Dialect) -> Candidate:
    stream = io.StringIO("".join(lines), newline="")
    try:
        found = list(islice(read_rows(stream, dialect), MOST_ROWS))
    except EndlessRowError:  # cannot be: the text is shorter
        found = []
    # A quote may still be open where the text was cut off: that is no fault, but no whole row either.
    if len(found) > 1 and not found[-1].closed:
        last = found.pop()
        lines = lines[: last.line - 1]
    return Candidate(dialect, [row.cells for row in found] or [[""]], has_valid_quotes(lines, dialect))


def _quoted_otherwise(lines: list[str], plain: Candidate) -> Candidate | None:
    """Return a reading with other quotes, if only that makes a table, or if it is plain that they are quotes."""
    delimiter = plain.dialect.delimiter
    if any("'" in line for line in lines):
        single = _read(lines, Dialect(delimiter, quote="'"))
        if single.fits and (_has_quoted_column(plain) or (not plain.fits and _quotes_in_need(single))):
            return single
    if plain.fits:
        return None
    if any('\\"' in line for line in lines):
        escaped = _read(lines, Dialect(delimiter, escape="\\"))
        if escaped.fits:
            return escaped
    # Where cells are parted by tabs, quotes are often plain characters: none is needed to write a comma.
    bare = _read(lines, Dialect(delimiter, quote="")) if delimiter == "\t" else None
    return bare if bare and bare.fits else None


def _has_quoted_column(reading: Candidate) -> bool:
    """Whether all cells of a column, that of the first row too, stand in single quotes."""
    return len(reading.rows) > 1 and any(
        all(len(row) > i and len(row[i]) > 1 and row[i][0] == row[i][-1] == "'" for row in reading.rows)
        for i in range(reading.width)
    )


def _quotes_in_need(reading: Candidate) -> bool:
    """Whether single quotes were put around a cell because it has a delimiter or a line end in it."""
    special = (reading.dialect.delimiter, "\n", "\r")
    return any(mark in cell for row in reading.rows for cell in row for mark in special)


def _nearly(plain: list[Candidate]) -> list[Candidate]:
    """Return the readings that are tables but for some bad rows; those with a recognised header come first."""
    wide = [each for each in plain if each.width > 1]
    named = [each for each in wide if each.names_roles]
    sure = [each for each in wide if each.share >= SURELY]
    return named or sure or [each for each in wide if each.share >= PERHAPS]


def _without_decimal_commas(found: list[Candidate]) -> list[Candidate]:
    """Return the readings without the one by commas, if in another one all commas are inside numbers, as in `0,5`."""
    others = [each for each in found if each.dialect.delimiter != ","]
    return others if any(map(_has_decimal_commas, others)) else found


def _has_decimal_commas(reading: Candidate) -> bool:
    columns = zip(*(row for row in reading.rows[1:] if len(row) == reading.width), strict=True)
    with_commas = [cells for cells in columns if any("," in cell for cell in cells)]
    return bool(with_commas) and all(detect_notation(cells) is not None for cells in with_commas)


def _best_named(found: list[Candidate]) -> list[Candidate]:
    most = max(each.names_roles for each in found)
    return [each for each in found if each.names_roles == most]


def _fits_below(reading: Candidate) -> bool:
    """Whether all rows but the first are equally wide: then the first is no header of them."""
    widths = Counter(len(row) for row in reading.rows[1:])
    if widths.total() < FEW_ROWS:
        return False
    width, count = widths.most_common(1)[0]
    return width > 1 and width != reading.width and count >= 0.95 * widths.total()


def _one_column(lines: list[str], suffix: str) -> Dialect:
    """Return the dialect of a file with one text a line; whether its quotes are quotes, the lines must tell."""
    quoted = Dialect(NO_DELIMITER)
    has_quotes = any(line.startswith('"') for line in lines)
    reading = _read(lines, quoted)
    if not reading.strict or (suffix not in (".csv", ".tsv") and not has_quotes):
        return Dialect(NO_DELIMITER, quote="")
    return quoted
