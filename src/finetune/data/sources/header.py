"""Detection of a header: whether the first row of a table names its columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.data.schema.layouts import is_role_name

SAMPLE_ROWS = 200
_NAME = re.compile(r"[^\W\d][\w .\-/()#:]{0,29}")
_NUMBER_OR_DATE = re.compile(r"[+\-]?[.,]?\d")
_SENTENCE_END = re.compile(r"[.!?…\u3002\uff01\uff1f]['\")»”]?$")


def has_header(rows: Sequence[Sequence[str]]) -> bool | None:
    """Return whether the first row holds names, None if that is ambiguous.

    The name of a role decides it. Otherwise a column counts as named if its first cell is not a number and all others
    are numbers or dates, or if it is short and the others are texts; and as not named if the first cell is a number,
    a text, or occurs again below.
    """
    first, below = [cell.strip() for cell in rows[0]], rows[1 : SAMPLE_ROWS + 1]
    columns = [_column(below, index) for index in range(len(first))]
    pairs = list(zip(first, columns, strict=True))
    is_data = any(_is_value(name, column) for name, column in pairs)
    has_role = any(is_role_name(name) and name not in column for name, column in pairs)
    is_pair = {"q", "a"} <= {name.lower() for name in first}  # letters that are names only next to each other
    if has_role or is_pair:
        return None if is_data else True
    if not below:
        return not is_data
    # Column names are unique: a row with a repeated cell is not a header.
    filled = [name.lower() for name in first if name]
    is_data = is_data or len(set(filled)) < len(filled)
    is_named = any(_is_name_of(name, column) for name, column in pairs)
    return None if is_data == is_named else is_named


def _column(rows: Sequence[Sequence[str]], index: int) -> list[str]:
    """Return the cells of a column that are not blank."""
    cells = [row[index].strip() for row in rows if index < len(row)]
    return [cell for cell in cells if cell]


def parses_as_number(text: str) -> bool:
    """Whether `float` parses the text, with a decimal point or comma; `nan` and `inf` count, unlike for scores."""
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def _is_value(first: str, column: list[str]) -> bool:
    if not first or (is_role_name(first) and first not in column):
        return False
    return parses_as_number(first) or _is_text(first) or first in column


def _is_text(cell: str) -> bool:
    """Whether a cell is a text rather than one or two words."""
    is_long = len(cell) > 60 or len(cell.split()) > 3
    return is_long or "\n" in cell or ", " in cell or bool(_SENTENCE_END.search(cell))


def _is_name_of(first: str, column: list[str]) -> bool:
    if not column or not _NAME.fullmatch(first) or len(first.split()) > 3:
        return False
    if all(map(_NUMBER_OR_DATE.match, column)) and not any(map(str.isdigit, first)):
        return True
    return sum(map(_is_text, column)) >= 0.8 * len(column) and not _is_text(first)
