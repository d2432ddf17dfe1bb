"""The first rows of a table, and what its columns probably hold."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.data.schema.number_formats import POINT, Notation, is_number, likely_notation, notation_of, to_number

# Booleans in text files, in lower case.
TRUE_WORDS = ("true", "yes")
FALSE_WORDS = ("false", "no")
MIDDLE_SCORE = 0.5  # of scores of 0 to 1: by default, pairs of at least this score are right
# With fewer rows than this for each distinct value, two or three values in a column mean nothing.
ROWS_A_VALUE = 2
_LETTERS = re.compile(r"[^\W\d_]")


class SampledColumns:
    """The names of a table's columns, and their first values.

    `notations` is how numbers are written in text columns, where that was detected; `decimal` is the setting.
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
        self._values: dict[str, list[Any]] = {}
        for index, name in enumerate(names):
            self._values[name] = [row[index] for row in sample if index < len(row) and row[index] is not None]

    def shown(self) -> list[str]:
        """Return the names as they are printed, without spaces around them."""
        return [name.strip() for name in self.names]

    def is_list(self, name: str, of_numbers: bool) -> bool:
        """Whether the column holds lists: most of its values are lists, or all of them are lists written as JSON.

        A list of numbers is one item, a vector, unless `of_numbers`. Where most values are lists, the others are
        reported row by row when they are read.
        """
        values = self._values[name]
        lists = [found for found in map(_as_list, values) if found is not None]
        if not lists:
            return False
        if len(lists) < len(values) and not _most_are_lists(values):
            return False
        return of_numbers or not any(is_number(inner[0]) for inner in lists if inner)

    def is_score(self, name: str) -> bool:
        """Whether every value is a number or a boolean, also one written as text."""
        values, notation = self._values[name], self.likely_notation(name)
        return bool(values) and all(is_number(value, notation) or is_truth_word(value) for value in values)

    def numbers(self, name: str) -> set[float]:
        """Return the distinct numbers of a column that holds scores."""
        notation = self.likely_notation(name)
        numbers = (to_number(value, notation) for value in self._values[name])
        return {number for number in numbers if number is not None}

    def notation(self, name: str) -> Notation:
        """Return how the numbers of a column are written; raises `CheckFailed` where that is ambiguous."""
        return notation_of(name, self._values[name], self._notations, self._decimal)

    def likely_notation(self, name: str) -> Notation:
        """Return how the numbers of a column are probably written."""
        return likely_notation(name, self._notations, self._decimal)

    def words(self, name: str) -> list[str]:
        """Return the distinct values of a column as text, in the order of their first occurrence."""
        notation = self.likely_notation(name)
        return list(dict.fromkeys(to_word(value, notation) for value in self._values[name]))

    def may_have_few_values(self, name: str, most: int) -> bool:
        """Whether the column has at most `most` distinct values in these rows, none of them a list or an object."""
        values = self._values[name]
        if any(isinstance(value, list | tuple | dict | bytes) or hasattr(value, "__array__") for value in values):
            return False
        return len(self.words(name)) <= most

    def texts_first(self, names: Sequence[str]) -> list[str]:
        """Return the names ordered by how much their values look like texts: sentences, words, the rest."""
        return sorted(names, key=lambda name: -self._likeness_to_text(name))

    def texts_of(self, names: Sequence[str]) -> list[str]:
        """Return only the names whose values look like texts, in the same order."""
        return [name for name in self.texts_first(names) if self._likeness_to_text(name)]

    def _likeness_to_text(self, name: str) -> int:
        """Return 2 for sentences, 1 for words, 0 for anything else."""
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
        return int(codes <= len(texts) / 2)


def to_word(value: Any, notation: Notation = POINT) -> str:
    """Return a value as the text that distinguishes it from others; numbers in `notation` get a decimal point."""
    if isinstance(value, str) and notation != POINT:
        number = notation.number(value)
        value = value if number is None else number
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).strip()


def suggested_min_score(low: float, high: float) -> float:
    """Return a score to suggest as the least of right pairs: 0.5 of scores of 0 to 1, else about the middle."""
    if 0 <= low <= high <= 1:
        return MIDDLE_SCORE
    middle = (low + high) / 2
    if high - low >= 2:
        return float(math.floor(middle) + 1)
    return float(f"{middle:.2g}")


def is_truth_word(value: Any) -> bool:
    """Whether a value is a boolean written as text, such as `true` or `No`."""
    return isinstance(value, str) and value.strip().lower() in (*TRUE_WORDS, *FALSE_WORDS)


def _as_list(value: Any) -> list[Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, str | bytes | dict) or not hasattr(value, "__iter__"):
        return None
    return list(value)


def _most_are_lists(values: Sequence[Any]) -> bool:
    # As `type_inference.infer_type` chooses the type of a column: of equally many, the first to occur.
    return Counter(map(_type_name, values)).most_common(1)[0][0] == "list"


def _type_name(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if _as_list(value) is not None:
        return "list"
    return type(value).__name__
