"""The columns of a source as typed columns by role: texts, numbers, flattened lists. Invalid rows are reported.

R rows of the source, F values of a column whose lists were flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints
from finetune.data.arrow_types import is_list, is_text
from finetune.data.bad_rows import BadRows, cut
from finetune.data.items import STORED, Modality
from finetune.data.schema.layouts import Roles
from finetune.data.schema.number_formats import POINT, Notation
from finetune.data.schema.sample_values import FALSE_WORDS, TRUE_WORDS
from finetune.data.source import Reading
from finetune.errors import CheckFailed, Problem

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]


class WrongTypeError(CheckFailed):
    """A column holds a type that its role does not support, in most of its rows."""


class RowFaults:
    """The invalid rows of one reading, each with its first fault."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.bad = np.zeros(reading.table.num_rows, bool)
        self._found: list[tuple[int, str | None, str, str]] = []

    def add(self, rows: Ints | Bools, column: str | None, kind: str, what: str) -> None:
        """Record a fault in `column` for these rows (indices, or a mask over all rows)."""
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        new = np.unique(rows[~self.bad[rows]])
        self.bad[new] = True
        self._found += [(int(row), column, kind, what) for row in new]

    def add_one(self, row: int, column: str, kind: str, what: str) -> None:
        """Record a fault in `column` for this row, unless the row has one already."""
        self.add(np.array([row]), column, kind, what)

    def report_to(self, bad: BadRows) -> None:
        """Add every invalid row to `bad`, in the order of the file."""
        if not self._found:
            return
        self._found.sort(key=lambda found: found[0])
        places = self.reading.locate(np.array([row for row, *_ in self._found], np.int64))
        for place, (row, column, kind, what) in zip(places, self._found, strict=True):
            bad.add(place, column, kind, what, self._text(row, column))

    def _text(self, row: int, column: str | None) -> str:
        if column is not None:
            return _display_text(self.reading.table[column][row].as_py())
        cells = self.reading.table.slice(row, 1).to_pylist()[0].values()
        return " | ".join(map(_display_text, cells))


def _display_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return cut(str(value))


@dataclass(frozen=True)
class ItemColumn:
    """The items of one column in their stored form (`STORED`), null where an item is missing or invalid.

    For a column of lists, `lengths (R,)` is how many of the flat `values` each row has; otherwise every row has one.
    """

    name: str
    modality: Modality
    values: pa.ChunkedArray
    lengths: Ints | None = None

    def row_of(self) -> Ints:
        """Return the row of each value, (F,)."""
        if self.lengths is None:
            return np.arange(len(self.values))
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


@dataclass(frozen=True)
class TypedColumns:
    """The columns of one source by role, of equal numbers of rows; `faults` has the rows found invalid so far."""

    roles: Roles
    faults: RowFaults
    anchor: ItemColumn
    positive: ItemColumn | None
    negatives: list[ItemColumn]
    score: Numbers | None = None  # (R,), or (F,) next to the values of a list
    label: pa.ChunkedArray | None = None
    weight: Numbers | None = None

    @property
    def items(self) -> list[ItemColumn]:
        """Anchor, positive, negatives."""
        if self.positive is None:
            return [self.anchor, *self.negatives]
        return [self.anchor, self.positive, *self.negatives]


Prepare = Callable[[str, pa.ChunkedArray, Callable[[int, str, str], None]], tuple[Modality, pa.ChunkedArray]]


def type_columns(reading: Reading, roles: Roles, prepare: Prepare) -> TypedColumns:
    """Return the columns by role.

    `prepare(name, values, report)` detects the modality of a column and converts its values to the stored form; it
    calls `report(row of values, kind, what)` for invalid values.

    Raises:
        CheckFailed: a column has an unsupported type.
    """
    faults = RowFaults(reading)
    items = {name: _items(faults, name, name in roles.lists, prepare) for name in roles.items}
    label = _label(faults, roles.label)
    score = _score(faults, roles, items)
    weight = _weight(faults, roles)
    return TypedColumns(
        roles=roles,
        faults=faults,
        anchor=items[roles.anchor],
        positive=items[roles.positive] if roles.positive else None,
        negatives=[items[name] for name in roles.negatives],
        score=score,
        label=label,
        weight=weight,
    )


def _items(faults: RowFaults, name: str, holds_lists: bool, prepare: Prepare) -> ItemColumn:
    values, lengths = faults.reading.table[name], None
    rows = np.arange(len(values))
    if holds_lists:
        values, lengths = _flatten(faults, name, values)
        rows = np.repeat(np.arange(len(lengths)), lengths)

    def report(index: int, kind: str, what: str) -> None:
        faults.add_one(int(rows[index]), name, kind, what)

    with _with_location(faults, name):
        modality, stored = prepare(name, values, report)
    assert stored.type == STORED[modality], f"{name}: {stored.type}"
    return ItemColumn(name, modality, stored, lengths)


@contextmanager
def _with_location(faults: RowFaults, name: str) -> Iterator[None]:
    """Add the location of a column's first value to a problem with the whole column."""
    try:
        yield
    except WrongTypeError as failed:
        valid_rows = np.flatnonzero(faults.reading.table[name].is_valid().to_numpy(zero_copy_only=False))
        location = ""
        if len(valid_rows):
            location = f" The first is in {faults.reading.locate(valid_rows[:1])[0]}."
        raise CheckFailed(replace(problem, what=problem.what + location) for problem in failed.problems) from failed


def to_texts(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as texts in their stored form; numbers and booleans are converted to text.

    Raises:
        CheckFailed: the column holds bytes, structs or lists.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        values = values.cast(kind)
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        what = f"the column '{name}' holds {_type_in_words(kind)}, and texts are expected."
        raise WrongTypeError([Problem("data.columns", what, "Name the columns that hold what you want to compare.")])
    if kind == STORED["text"]:
        return values
    return values.cast(STORED["text"])


def _type_in_words(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "objects"
    if pa.types.is_nested(kind):
        return "lists"
    if pa.types.is_binary(kind):
        return "bytes"
    return str(kind)


def _flatten(faults: RowFaults, name: str, values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Ints]:
    if is_text(values.type):
        values = _parse_lists(faults, name, values)
    if not is_list(values.type):
        what = f"the column '{name}' must hold lists, and most of its values are of type {values.type}."
        with _with_location(faults, name):
            raise WrongTypeError([Problem("data.columns", what, "Every row must hold a list.")])
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy().astype(np.int64)
    return pa.chunked_array([chunk.flatten() for chunk in values.chunks], values.type.value_type), lengths


def _parse_lists(faults: RowFaults, name: str, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the lists that the cells of a text column hold as JSON."""
    import json

    lists: list[Any] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            found = json.loads(text) if text and text.strip() else None  # blank: no list
        except (ValueError, RecursionError):
            found = text
        if found is not None and not isinstance(found, list):
            faults.add_one(row, name, "json", "is not a JSON list")
            found = None
        lists.append(found)
    try:
        return pa.chunked_array([pa.array(lists)])
    except (pa.ArrowException, TypeError):
        return pa.chunked_array([pa.array(_as_text_lists(lists), pa.large_list(pa.large_string()))])


def _as_text_lists(lists: list[Any]) -> list[list[str] | None]:
    """Return the lists with every value as a text: for lists of mixed types."""
    texts: list[list[str] | None] = []
    for values in lists:
        if values is None:
            texts.append(None)
        else:
            texts.append(list(map(str, values)))
    return texts


def _label(faults: RowFaults, name: str | None) -> pa.ChunkedArray | None:
    if name is None:
        return None
    with _with_location(faults, name):
        label = to_texts(name, faults.reading.table[name])
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(label), ""), True)
    faults.add(blank.to_numpy(), name, "empty", "there is no label")
    return label


def _weight(faults: RowFaults, roles: Roles) -> Numbers | None:
    name = roles.weight
    if name is None:
        return None
    weights = to_numbers(faults.reading.table[name], roles.notations.get(name, POINT))
    faults.add(~np.isfinite(weights), name, "number", "is not a finite number")
    faults.add(weights < 0, name, "number", "a weight must not be negative")
    return weights


def _score(faults: RowFaults, roles: Roles, items: dict[str, ItemColumn]) -> Numbers | None:
    name = roles.score
    if name is None:
        return None
    positive = items[roles.positive or ""]
    values, notation = faults.reading.table[name], roles.notations.get(name, POINT)
    if positive.lengths is None:
        scores = _scores(values, notation)
        faults.add(~np.isfinite(scores), name, "number", "is not a finite number")
        return scores
    if name not in roles.lists:
        what = f"'{positive.name}' holds lists and '{name}' does not."
        raise CheckFailed([Problem("data.columns", what, "There must be one score for each document.")])
    flat, lengths = _flatten(faults, name, values)
    scores = _scores(flat, notation)
    if not np.array_equal(lengths, positive.lengths):
        for row in np.flatnonzero(lengths != positive.lengths):
            what = f"has {lengths[row]} scores for {positive.lengths[row]} documents"
            faults.add_one(int(row), name, "lengths", what)
        return _align(scores, lengths, positive.lengths)
    faults.add(positive.row_of()[~np.isfinite(scores)], name, "number", "a score is not a finite number")
    return scores


def _align(flat: Numbers, lengths: Ints, wanted: Ints) -> Numbers:
    """Return `flat` with `wanted` values for each row, cut or padded with NaN, so that valid rows stay usable."""
    starts = np.cumsum(lengths) - lengths
    place = np.arange(int(wanted.sum())) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    inside = place < np.repeat(lengths, wanted)
    if not len(flat):
        return np.full(len(place), np.nan)
    index = np.where(inside, np.repeat(starts, wanted) + place, 0)
    return np.where(inside, flat[index], np.nan)


def _scores(values: pa.ChunkedArray, notation: Notation) -> Numbers:
    """Return scores, NaN for an invalid one; for booleans, also those written as text, true is 1 and false is 0."""
    numbers = to_numbers(values, notation)
    if not is_text(values.type) or np.isfinite(numbers).all():
        return numbers
    word = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    for words, score in ((TRUE_WORDS, 1.0), (FALSE_WORDS, 0.0)):
        is_word = pc.fill_null(pc.is_in(word, value_set=pa.array(words, word.type)), False)
        numbers = np.where(is_word.to_numpy(zero_copy_only=False), score, numbers)
    return numbers


def to_numbers(values: pa.ChunkedArray, notation: Notation = POINT) -> Numbers:
    """Return numbers, NaN for an invalid one; `notation` is how numbers are written in a text column."""
    if is_text(values.type) and notation != POINT:
        return _as_floats(_with_point(values, notation))
    try:
        return _as_floats(values)
    except pa.ArrowException:
        if not is_text(values.type):
            return np.full(len(values), np.nan)
        # Invalid texts are separated from numbers only if there are any: it takes as long again.
        return _as_floats(_with_point(values, POINT))


def _as_floats(values: pa.ChunkedArray) -> Numbers:
    numbers: Numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _with_point(texts: pa.ChunkedArray, notation: Notation) -> pa.ChunkedArray:
    """Return texts that are numbers in this notation as Arrow parses them, null for all others."""
    texts = pc.if_else(pc.match_substring_regex(texts, notation.pattern), texts, None)
    if notation.thousands:
        texts = pc.replace_substring_regex(texts, notation.separator, "")
    texts = pc.replace_substring(texts, notation.decimal, ".")
    return pc.utf8_ltrim(pc.utf8_trim_whitespace(texts), "+")
