"""How numbers are written in a text column: with a decimal point or comma, with or without thousands separators."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config.quoting import quoted, typed
from finetune.data.bad_rows import cut
from finetune.errors import CheckFailed, Problem

KEY = "data.decimal"
_EXPONENT = r"([eE][+-]?\d+)?"


@dataclass(frozen=True)
class Notation:
    """How numbers are written: `decimal` is "." or ","; `thousands`: the other mark or a space may separate them."""

    decimal: str = "."
    thousands: bool = False

    @property
    def separator(self) -> str:
        """A regular expression for the thousands separator: the other mark, a space or an apostrophe."""
        other = "," if self.decimal == "." else "."
        return f"[{other} \u00a0\u202f'\u2019]"

    @property
    def pattern(self) -> str:
        """A regular expression that matches a number in this notation, in Python and in Arrow."""
        decimal = re.escape(self.decimal)
        whole = rf"([1-9]\d{{0,2}}({self.separator}\d{{3}})+|\d+)" if self.thousands else r"\d+"
        return rf"^\s*[+-]?({whole}({decimal}\d*)?|{decimal}\d+){_EXPONENT}\s*$"

    def number(self, text: str) -> float | None:
        """Return a text as a number, None if it is not a finite number."""
        if not re.search(self.pattern, text, re.ASCII):
            return None
        return _finite(float(re.sub(self.separator, "", text).replace(self.decimal, ".")))


POINT, COMMA = Notation(), Notation(",")
DECLARED = {".": Notation(".", thousands=True), ",": Notation(",", thousands=True)}
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # or a fraction of three digits: ambiguous


def detect_notation(cells: Sequence[str]) -> Notation | None:
    """Return `COMMA` for a column of numbers with a decimal comma, one of `DECLARED` if there are thousands, else None.

    Thousands are a question for the user: `1,234` is a number either way.
    """
    filled = [cell.strip() for cell in cells if cell.strip()]
    if not any("," in text for text in filled):
        return None
    if all(COMMA.number(text) is not None for text in filled):
        may_be_thousands = all(_THOUSANDS.fullmatch(text) for text in filled if "," in text)
        return DECLARED[","] if may_be_thousands else COMMA
    for notation in DECLARED.values():
        if all(notation.number(text) is not None for text in filled):
            return notation
    return None


def to_number(value: Any, notation: Notation = POINT) -> float | None:
    """Return a value as a finite number, None if it is not one; `notation` is how a text writes it."""
    if isinstance(value, str):
        return notation.number(value)
    try:
        return _finite(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def is_number(value: Any, notation: Notation = POINT) -> bool:
    """Whether a value is a finite number or a boolean, or a number written as text."""
    return to_number(value, notation) is not None


def likely_notation(name: str, found: Mapping[str, Notation], decimal: str) -> Notation:
    """Return how the numbers of a column are probably written; what may be thousands is read as thousands."""
    return DECLARED.get(decimal) or found.get(name, POINT)


def notation_of(name: str, values: Sequence[object], found: Mapping[str, Notation], decimal: str) -> Notation:
    """Return how the numbers of a column are written: as `data.decimal` says, else as detected.

    `values` are its first values, `found` the results of `detect_notation` by column.

    Raises:
        CheckFailed: they can be read in two ways.
    """
    notation = likely_notation(name, found, decimal)
    if notation.thousands and decimal not in DECLARED:
        texts = [value.strip() for value in values if isinstance(value, str)]
        example = next((f": {cut(text, 30)}" for text in texts if "," in text), "")
        what = f"the numbers in the column '{name.strip()}' may have a decimal comma or thousands{example}."
        ways = [typed(KEY, quoted(mark)) for mark in (",", ".")]
        how = f"Say which mark is the decimal one: {ways[0]} or {ways[1]} (the other one separates thousands)."
        raise CheckFailed([Problem(KEY, what, how)])
    return notation
