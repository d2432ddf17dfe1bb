"""Whether the first row of a table names its columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.data.schema.layouts import is_role_name

LOOKED_AT = 200  # rows
_NAME = re.compile(r"[^\W\d][\w .\-/()#:]{0,29}")
_NUMBER_OR_DATE = re.compile(r"[+\-]?[.,]?\d")
_SENTENCE_END = re.compile(r"[.!?…\u3002\uff01\uff1f]['\")»”]?$")


def has_header(rows: Sequence[Sequence[str]]) -> bool | None:
    """Return whether the first row holds names, None where that is open.

    Names that are known for a role settle it. Else a column counts as named where its first cell is no number and all
    others are (or dates), or where it is short and the others are texts; and as not named where the first cell is a
    number, a text of its own, or occurs again.
    """
    first, below = [cell.strip() for cell in rows[0]], rows[1 : LOOKED_AT + 1]
    columns = [[row[i].strip() for row in below if i < len(row) and row[i].strip()] for i in range(len(first))]
    recognised = [
        name and is_role_name(name) and name not in column for name, column in zip(first, columns, strict=True)
    ]
    is_data = any(_is_value(name, column) for name, column in zip(first, columns, strict=True))
    is_pair = {"q", "a"} <= {name.lower() for name in first}  # letters that are names only beside each other
    if any(recognised) or is_pair:
        return None if is_data else True
    if not below:
        return not is_data
    # A name stands for one column: a row that says the same twice is none.
    is_data = is_data or len({name.lower() for name in first if name}) < sum(map(bool, first))
    is_named = any(_is_name_of(name, column) for name, column in zip(first, columns, strict=True))
    return None if is_data == is_named else is_named


def parses_as_number(text: str) -> bool:
    """Whether the text is a number, with a decimal point or comma."""
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
    """Whether a cell is a text rather than a word or two."""
    is_long = len(cell) > 60 or len(cell.split()) > 3
    return is_long or "\n" in cell or ", " in cell or bool(_SENTENCE_END.search(cell))


def _is_name_of(first: str, column: list[str]) -> bool:
    if not column or not _NAME.fullmatch(first) or len(first.split()) > 3:
        return False
    if all(map(_NUMBER_OR_DATE.match, column)) and not any(map(str.isdigit, first)):
        return True
    return sum(map(_is_text, column)) >= 0.8 * len(column) and not _is_text(first)
