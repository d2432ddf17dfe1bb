"""The first rows of a table, and questions about the values in its columns."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.data.schema.number_formats import POINT, Notation, is_number, likely_notation, notation_of, to_number

# What a truth value may be called where a file holds texts; in lower case.
TRUE_WORDS = ("true", "yes")
FALSE_WORDS = ("false", "no")
MIDDLE_SCORE = 0.5  # of scores of 0 to 1: unless a user says otherwise, pairs of at least this score are right
# With fewer rows than this for each value, two or three values in a column mean nothing.
ROWS_A_VALUE = 2
_LETTERS = re.compile(r"[^\W\d_]")


class SampledColumns:
    """The names of a table's columns, and their first values.

    `notations` is how numbers are written in the text columns where that was recognised, `decimal` is the setting.
    """

    def __init__(
        self,
        names: Sequence[str],
        sample: Sequence[Sequence[Any]],
        notations: Mapping[str, Notation] | None = None,
        decimal: str = "auto",
    ) -> None:
        self._notations, self._decimal = notations or {}, decimal
        self.names = list(names)
        self.rows = [row for row in sample if len(row) == len(self.names)]
        self._values = {
            name: [row[i] for row in sample if i < len(row) and row[i] is not None] for i, name in enumerate(names)
        }

    def shown(self) -> list[str]:
        """Return the names as they are shown."""
        return [name.strip() for name in self.names]

    def is_list(self, name: str, of_numbers: bool) -> bool:
        """Whether the column holds lists: most of its values are, or all of them are lists written as JSON.

        A list of numbers is one item, a vector, unless `of_numbers`. Where most values are lists, the others are
        reported row by row when they are read.
        """
        values = self._values[name]
        lists = [found for found in map(_as_list, values) if found is not None]
        if not lists or not (len(lists) == len(values) or _most_are_lists(values)):
            return False
        return of_numbers or not any(is_number(one[0]) for one in lists if one)

    def is_score(self, name: str) -> bool:
        """Whether every value is a number or a truth value, also one written as text."""
        values, notation = self._values[name], self.likely_notation(name)
        return bool(values) and all(is_number(value, notation) or is_truth_word(value) for value in values)

    def numbers(self, name: str) -> set[float]:
        """Return the distinct numbers of a column that holds scores."""
        notation = self.likely_notation(name)
        return {number for value in self._values[name] if (number := to_number(value, notation)) is not None}

    def notation(self, name: str) -> Notation:
        """Return how the numbers of a column are written; raises `CheckFailed` where that is open."""
        return notation_of(name, self._values[name], self._notations, self._decimal)

    def likely_notation(self, name: str) -> Notation:
        """Return how the numbers of a column are probably written."""
        return likely_notation(name, self._notations, self._decimal)

    def words(self, name: str) -> list[str]:
        """Return the distinct values of a column, as text, in the order in which they come."""
        notation = self.likely_notation(name)
        return list(dict.fromkeys(to_word(value, notation) for value in self._values[name]))

    def may_have_few_values(self, name: str, most: int) -> bool:
        """Whether the column has at most so many distinct values in these rows, none of them a list or an object."""
        values = self._values[name]
        if any(isinstance(value, list | tuple | dict | bytes) or hasattr(value, "__array__") for value in values):
            return False
        return len(self.words(name)) <= most

    def texts_first(self, names: Sequence[str]) -> list[str]:
        """Return the names with those in front whose values look like texts: sentences, then words, then the rest."""
        return sorted(names, key=lambda name: -self._likeness_to_text(name))

    def texts_of(self, names: Sequence[str]) -> list[str]:
        """Return only the names whose values look like texts, in the same order."""
        return [name for name in self.texts_first(names) if self._likeness_to_text(name)]

    def _likeness_to_text(self, name: str) -> int:
        values = self._values[name]
        texts = [value for value in values if isinstance(value, str) and _LETTERS.search(value)]
        if not texts or len(texts) <= len(values) / 2:
            return 0
        if len(values) >= 4 and ROWS_A_VALUE * len(set(texts)) <= len(texts) and len(set(texts)) <= 3:
            return 0  # a language, a split
        sentences = sum(len(text.split()) > 1 for text in texts)
        codes = sum(any(char.isdigit() for char in text) and len(text.split()) == 1 for text in texts)
        if sentences > len(texts) / 2:
            return 2
        return 1 if codes <= len(texts) / 2 else 0


def to_word(value: Any, notation: Notation = POINT) -> str:
    """Return a value as the text that distinguishes it from others; numbers in `notation` get a decimal point."""
    if isinstance(value, str) and notation != POINT and (number := notation.number(value)) is not None:
        value = number
    return f"{value:g}" if isinstance(value, float) else str(value).strip()


def suggested_min_score(low: float, high: float) -> float:
    """Return an example of a score from which pairs are right: 0.5 of scores of 0 to 1, else about the middle."""
    if 0 <= low <= high <= 1:
        return MIDDLE_SCORE
    middle = (low + high) / 2
    return float(math.floor(middle) + 1) if high - low >= 2 else float(f"{middle:.2g}")


def is_truth_word(value: Any) -> bool:
    """Whether a value is a text such as `true` or `No`."""
    return isinstance(value, str) and value.strip().lower() in (*TRUE_WORDS, *FALSE_WORDS)


def _as_list(value: Any) -> list[Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str | bytes | dict) else None


def _most_are_lists(values: Sequence[Any]) -> bool:
    # As `python_values.infer` chooses the type of a column: of equally many, what comes first.
    kinds = Counter("text" if isinstance(value, str) else _kind(value) for value in values)
    return kinds.most_common(1)[0][0] == "list"


def _kind(value: Any) -> str:
    return "list" if _as_list(value) is not None else type(value).__name__
