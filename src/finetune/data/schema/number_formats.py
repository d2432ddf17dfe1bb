"""How the numbers of a text column are written: with a decimal point or a decimal comma, in thousands or not."""

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
    """How numbers are written: `decimal` is "." or ","; `thousands`: the other mark or a space may separate these."""

    decimal: str = "."
    thousands: bool = False

    @property
    def separator(self) -> str:
        """A regular expression that matches what separates thousands: the other mark, a space, an apostrophe."""
        other = "," if self.decimal == "." else "."
        return f"[{other} \u00a0\u202f'\u2019]"

    @property
    def pattern(self) -> str:
        """A regular expression that matches a number in this notation, for Python and for Arrow alike."""
        decimal = re.escape(self.decimal)
        whole = rf"([1-9]\d{{0,2}}({self.separator}\d{{3}})+|\d+)" if self.thousands else r"\d+"
        return rf"^\s*[+-]?({whole}({decimal}\d*)?|{decimal}\d+){_EXPONENT}\s*$"

    def number(self, text: str) -> float | None:
        """Return the number that a text is, None if it is none, or not a finite one."""
        if not re.search(self.pattern, text, re.ASCII):
            return None
        number = float(re.sub(self.separator, "", text).replace(self.decimal, "."))
        return number if math.isfinite(number) else None


POINT, COMMA = Notation(), Notation(",")
DECLARED = {".": Notation(".", thousands=True), ",": Notation(",", thousands=True)}
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # or a fraction of three digits: only the author knows


def detect_notation(cells: Sequence[str]) -> Notation | None:
    """Return `COMMA` for a column of numbers with a decimal comma, one of `DECLARED` if there are thousands, else None.

    Thousands are a question for the user: `1,234` is a number either way.
    """
    filled = [text for cell in cells if (text := cell.strip())]
    if not any("," in text for text in filled):
        return None
    if all(COMMA.number(text) is not None for text in filled):
        may_be_thousands = all(_THOUSANDS.fullmatch(text) for text in filled if "," in text)
        return DECLARED[","] if may_be_thousands else COMMA
    grouped = (each for each in DECLARED.values() if all(each.number(text) is not None for text in filled))
    return next(grouped, None)


def to_number(value: Any, notation: Notation = POINT) -> float | None:
    """Return the finite number that a value is, None if it is none; `notation` is how a text writes it."""
    if isinstance(value, str):
        return notation.number(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_number(value: Any, notation: Notation = POINT) -> bool:
    """Whether a value is a finite number or a truth value, also one written as text."""
    return to_number(value, notation) is not None


def likely_notation(name: str, found: Mapping[str, Notation], decimal: str) -> Notation:
    """Return how the numbers of a column are probably written; what may be thousands is taken for them."""
    return DECLARED.get(decimal) or found.get(name, POINT)


def notation_of(name: str, values: Sequence[object], found: Mapping[str, Notation], decimal: str) -> Notation:
    """Return how the numbers of a column are written: as `data.decimal` says, else as was recognised.

    `values` are its first values, `found` what `recognise` said of the columns that it recognised.

    Raises:
        CheckFailed: they can be read two ways.
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
