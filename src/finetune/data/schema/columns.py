"""From the columns of a source to typed columns by role: texts, numbers, lists laid flat; what does not fit is told.

R rows of the source, F values of a column whose lists were laid flat.
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
    """A column holds what its role cannot take, in most of its rows."""


class RowFaults:
    """What is wrong with which rows of one reading: the first fault of a row counts."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.bad = np.zeros(reading.table.num_rows, bool)
        self._found: list[tuple[int, str | None, str, str]] = []

    def add(self, rows: Ints | Bools, column: str | None, kind: str, what: str) -> None:
        """Note that these rows (numbers, or a mask over all) have something wrong in `column`."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        fresh = np.unique(rows[~self.bad[rows]])
        self.bad[fresh] = True
        self._found += [(int(row), column, kind, what) for row in fresh]

    def add_one(self, row: int, column: str, kind: str, what: str) -> None:
        """Note that this row has something wrong in `column`, unless it is known to be bad."""
        self.add(np.array([row]), column, kind, what)

    def tell(self, bad: BadRows) -> None:
        """Add every bad row to `bad`, in the order of the file."""
        if not self._found:
            return
        self._found.sort(key=lambda found: found[0])
        places = self.reading.locate(np.array([row for row, *_ in self._found], np.int64))
        for place, (row, column, kind, what) in zip(places, self._found, strict=True):
            bad.add(place, column, kind, what, self._text(row, column))

    def _text(self, row: int, column: str | None) -> str:
        if column is not None:
            return _shown(self.reading.table[column][row].as_py())
        return " | ".join(_shown(value) for value in self.reading.table.slice(row, 1).to_pylist()[0].values())


def _shown(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else cut(str(value))


@dataclass(frozen=True)
class ItemColumn:
    """The items of one column, as they are stored (`STORED`), null where there is none or a bad one.

    With lists, `lengths (R,)` says how many of the flat `values` each row has; without, every row has one.
    """

    name: str
    modality: Modality
    values: pa.ChunkedArray
    lengths: Ints | None = None

    def row_of(self) -> Ints:
        """Return the row of each value, (F,)."""
        rows = np.arange(len(self.values) if self.lengths is None else len(self.lengths))
        return rows if self.lengths is None else np.repeat(rows, self.lengths)


@dataclass(frozen=True)
class TypedColumns:
    """The columns of one source by role, of equal numbers of rows; `faults` says which rows are bad so far."""

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
        return [self.anchor, *([self.positive] if self.positive else []), *self.negatives]


Prepare = Callable[[str, pa.ChunkedArray, Callable[[int, str, str], None]], tuple[Modality, pa.ChunkedArray]]


def type_columns(reading: Reading, roles: Roles, prepare: Prepare) -> TypedColumns:
    """Return the columns by role.

    `prepare(name, values, report)` recognises the modality of a column and brings its values to the stored form; it
    calls `report(row of values, kind, what)` for those that are no such thing.

    Raises:
        CheckFailed: a column holds what no role can take.
    """
    faults = RowFaults(reading)
    items = {name: _items(faults, name, name in roles.lists, prepare) for name in roles.items}
    label = _label(faults, roles.label) if roles.label else None
    score = _score(faults, roles, items) if roles.score else None
    weight = _weight(faults, roles) if roles.weight else None
    return TypedColumns(
        roles,
        faults,
        items[roles.anchor],
        items[roles.positive] if roles.positive else None,
        [items[name] for name in roles.negatives],
        score,
        label,
        weight,
    )


def _items(faults: RowFaults, name: str, is_list: bool, prepare: Prepare) -> ItemColumn:
    values, lengths = faults.reading.table[name], None
    if is_list:
        values, lengths = _flat(faults, name, values)
    rows = np.arange(len(values)) if lengths is None else np.repeat(np.arange(len(lengths)), lengths)
    with _with_its_place(faults, name):
        modality, stored = prepare(
            name, values, lambda place, kind, what: faults.add_one(int(rows[place]), name, kind, what)
        )
    assert stored.type == STORED[modality], f"{name}: {stored.type}"
    return ItemColumn(name, modality, stored, lengths)


@contextmanager
def _with_its_place(faults: RowFaults, name: str) -> Iterator[None]:
    """Add to what is wrong with a column as a whole where its first value is."""
    try:
        yield
    except WrongTypeError as failed:
        there = np.flatnonzero(faults.reading.table[name].is_valid().to_numpy(zero_copy_only=False))
        place = f" The first is in {faults.reading.locate(there[:1])[0]}." if len(there) else ""
        raise CheckFailed(replace(problem, what=problem.what + place) for problem in failed.problems) from failed


def to_texts(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of texts as they are stored; numbers and truth values become their text.

    Raises:
        CheckFailed: the column holds bytes, structs or lists.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        what = f"the column '{name}' holds {_in_words(kind)}, and texts are expected."
        raise WrongTypeError([Problem("data.columns", what, "Name the columns that hold what you want to compare.")])
    return values if kind == STORED["text"] else values.cast(STORED["text"])


def _in_words(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "objects"
    return "lists" if pa.types.is_nested(kind) else "bytes" if pa.types.is_binary(kind) else str(kind)


def _flat(faults: RowFaults, name: str, values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Ints]:
    if _is_text(values.type):
        values = _parse_lists(faults, name, values)
    if not _is_list(values.type):
        what = f"the column '{name}' is to hold lists, and most of its values are of type {values.type}."
        with _with_its_place(faults, name):
            raise WrongTypeError([Problem("data.columns", what, "Every row must hold a list.")])
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy().astype(np.int64)
    return pa.chunked_array([chunk.flatten() for chunk in values.chunks], values.type.value_type), lengths


def _parse_lists(faults: RowFaults, name: str, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return lists that a text format holds as JSON in its cells."""
    import json

    lists: list[Any] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            found = json.loads(text) if text and text.strip() else None
        except (ValueError, RecursionError):
            found = text
        if found is not None and not isinstance(found, list):
            faults.add_one(row, name, "json", "is no JSON list")
            found = None
        lists.append(found)
    try:
        return pa.chunked_array([pa.array(lists)])
    except (pa.ArrowException, TypeError):
        as_text = [None if one is None else [str(inner) for inner in one] for one in lists]
        return pa.chunked_array([pa.array(as_text, pa.large_list(pa.large_string()))])


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _label(faults: RowFaults, name: str) -> pa.ChunkedArray:
    with _with_its_place(faults, name):
        label = to_texts(name, faults.reading.table[name])
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(label), ""), True)
    faults.add(blank.to_numpy(), name, "empty", "there is no label")
    return label


def _weight(faults: RowFaults, roles: Roles) -> Numbers:
    name = roles.weight
    assert name is not None
    weights = to_numbers(faults.reading.table[name], roles.notations.get(name, POINT))
    faults.add(~np.isfinite(weights), name, "number", "is no finite number")
    faults.add(weights < 0, name, "number", "a weight is not below 0")
    return weights


def _score(faults: RowFaults, roles: Roles, items: dict[str, ItemColumn]) -> Numbers:
    name, positive = roles.score, items[roles.positive or ""]
    assert name is not None
    values, notation = faults.reading.table[name], roles.notations.get(name, POINT)
    if positive.lengths is None:
        scores = _scores(values, notation)
        faults.add(~np.isfinite(scores), name, "number", "is no finite number")
        return scores
    if name not in roles.lists:
        what = f"'{positive.name}' holds lists and '{name}' does not."
        raise CheckFailed([Problem("data.columns", what, "There must be one score for each document.")])
    flat, lengths = _flat(faults, name, values)
    scores = _scores(flat, notation)
    if not np.array_equal(lengths, positive.lengths):
        for row in np.flatnonzero(lengths != positive.lengths):
            what = f"has {lengths[row]} scores for {positive.lengths[row]} documents"
            faults.add_one(int(row), name, "lengths", what)
        return _aligned(scores, lengths, positive.lengths)
    faults.add(positive.row_of()[~np.isfinite(scores)], name, "number", "a score is no finite number")
    return scores


def _aligned(flat: Numbers, lengths: Ints, wanted: Ints) -> Numbers:
    """Return `flat` with as many values for each row as wanted, so that the good rows can go on."""
    starts = np.cumsum(lengths) - lengths
    place = np.arange(int(wanted.sum())) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    inside = place < np.repeat(lengths, wanted)
    index = np.where(inside, np.repeat(starts, wanted) + place, 0)
    return np.where(inside, flat[index] if len(flat) else np.nan, np.nan)


def _scores(values: pa.ChunkedArray, notation: Notation) -> Numbers:
    """Return scores, NaN for what is none; of truth values, also those written as text, true is 1 and false is 0."""
    numbers = to_numbers(values, notation)
    if not _is_text(values.type) or np.isfinite(numbers).all():
        return numbers
    word = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    for words, score in ((TRUE_WORDS, 1.0), (FALSE_WORDS, 0.0)):
        is_word = pc.fill_null(pc.is_in(word, value_set=pa.array(words, word.type)), False)
        numbers = np.where(is_word.to_numpy(zero_copy_only=False), score, numbers)
    return numbers


def to_numbers(values: pa.ChunkedArray, notation: Notation = POINT) -> Numbers:
    """Return numbers, NaN for what is none; `notation` is how a text writes them."""
    if _is_text(values.type) and notation != POINT:
        return _as_floats(_with_point(values, notation))
    try:
        return _as_floats(values)
    except pa.ArrowException:
        # Only where a text is no number the others must be told from it, which takes as long again.
        return _as_floats(_with_point(values, POINT)) if _is_text(values.type) else np.full(len(values), np.nan)


def _as_floats(values: pa.ChunkedArray) -> Numbers:
    numbers: Numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _with_point(texts: pa.ChunkedArray, notation: Notation) -> pa.ChunkedArray:
    """Return texts that are numbers in this notation as Arrow casts them, null for all others."""
    texts = pc.if_else(pc.match_substring_regex(texts, notation.pattern), texts, None)
    if notation.thousands:
        texts = pc.replace_substring_regex(texts, notation.separator, "")
    texts = pc.replace_substring(texts, notation.decimal, ".")
    return pc.utf8_ltrim(pc.utf8_trim_whitespace(texts), "+")
