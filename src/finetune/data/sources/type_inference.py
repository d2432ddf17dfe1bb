"""Python values as Arrow columns: the type that fits most of them, and what does not fit told row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from finetune.data.bad_rows import BadRows, RowLocation, cut

SAID = {"text": "text", "number": "a number", "bool": "true or false", "list": "a list", "object": "an object"}
_INTEGERS = range(-(2**63), 2**63)


@dataclass(frozen=True)
class InvalidRow:
    """What stands in the place of a row that could not be read: the kind of bad row, what is wrong, its text."""

    kind: str
    what: str
    text: str


def type_name(value: Any) -> str:
    """Return what a value is: text, number, bool, list, object, or the name of another type."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list | tuple):
        return "list"
    return "object" if isinstance(value, Mapping) else type(value).__name__


def infer_type(values: Iterable[Any]) -> pa.DataType:
    """Return the type that most of the values have; null where there is none."""
    present = [value for value in values if value is not None]
    if not present:
        return pa.null()
    most = Counter(map(type_name, present)).most_common(1)[0][0]
    kind = pa.null()
    for value in present:
        if type_name(value) == most:
            kind = widen(kind, value) or kind
    return kind


def widen(kind: pa.DataType, value: Any) -> pa.DataType | None:
    """Return the type that holds what `kind` holds and `value` too, None if there is no such type."""
    if value is None:
        return kind
    what = type_name(value)
    if what == "list":
        return _widened_list(kind, value)
    if what == "object":
        return _widened_object(kind, value)
    if what == "number":
        return _widened_number(kind, value)
    wanted = {"text": pa.string(), "bool": pa.bool_(), "bytes": pa.binary()}.get(what)
    return wanted if kind in (pa.null(), wanted) else None


def _widened_number(kind: pa.DataType, value: float) -> pa.DataType | None:
    whole = isinstance(value, int) and value in _INTEGERS
    if kind in (pa.null(), pa.int64()):
        return pa.int64() if whole else pa.float64()
    return kind if kind == pa.float64() else None


def _widened_list(kind: pa.DataType, values: Sequence[Any]) -> pa.DataType | None:
    if kind != pa.null() and not pa.types.is_list(kind):
        return None
    inner = pa.null() if kind == pa.null() else kind.value_type
    for value in values:
        if (wider := widen(inner, value)) is None:
            return None
        inner = wider
    return pa.list_(inner)


def _widened_object(kind: pa.DataType, value: Mapping[str, Any]) -> pa.DataType | None:
    if kind != pa.null() and not pa.types.is_struct(kind):
        return None
    fields = {} if kind == pa.null() else {field.name: field.type for field in kind}
    for name, inner in value.items():
        wider = widen(fields.get(str(name), pa.null()), inner)
        if wider is None:
            return None
        fields[str(name)] = wider
    return pa.struct(list(fields.items()))


def type_rows(
    rows: Sequence[Mapping[str, Any] | InvalidRow],
    places: Sequence[RowLocation],
    types: dict[str, pa.DataType],
    bad: BadRows,
) -> tuple[pa.RecordBatch, list[int]]:
    """Return the good rows as columns of `types`, and their numbers; the others are added to `bad`.

    A row lacks a key where there is null. `types` is widened in place, as from whole numbers to fractions.
    """
    good: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in types}
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        if isinstance(row, InvalidRow):
            bad.add(place, None, row.kind, row.what, row.text)
            continue
        wider = {name: widen(kind, row.get(name)) for name, kind in types.items()}
        wrong = next((name for name, kind in wider.items() if kind is None), None)
        wrong = wrong or next((name for name in types if _has_surrogate(row.get(name))), None)
        if wrong is None:
            types.update({name: kind for name, kind in wider.items() if kind is not None})
            good.append(number)
            for name, column in values.items():
                column.append(_plain(row.get(name)))
            continue
        bad.add(place, wrong, "type", _complaint(row[wrong], types[wrong]), cut(str(row[wrong])))
    columns = [pa.array(values[name], kind) for name, kind in types.items()]
    schema = pa.schema(list(types.items()))
    return pa.record_batch(columns, schema), good


def _plain(value: Any) -> Any:
    # Arrow takes no mapping but dict, and an integer beyond 64 bits only as a float.
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INTEGERS:
        return float(value) if abs(value) < 2**1023 else float("inf")
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return {str(key): _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _has_surrogate(value: Any) -> bool:
    """Whether a text in it has half of a character, as `"\\ud800"`, which no encoding can write."""
    if isinstance(value, str):
        return not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, list | tuple):
        return any(map(_has_surrogate, value))
    return isinstance(value, Mapping) and any(map(_has_surrogate, value.values()))


def _complaint(value: Any, kind: pa.DataType) -> str:
    if _has_surrogate(value):
        return "has half of a character (a lone surrogate)"
    found = type_name(value)
    wanted = _kind_said(kind)
    if found == wanted:
        return "has a value inside that is of another kind than in the other rows"
    return f"is {SAID.get(found, f'a {found}')}, in the other rows it is {SAID.get(wanted, wanted)}"


def _kind_said(kind: pa.DataType) -> str:
    tests = {"is_string": "text", "is_boolean": "bool", "is_list": "list", "is_struct": "object"}
    found = next((word for test, word in tests.items() if getattr(pa.types, test)(kind)), None)
    return found or ("number" if pa.types.is_floating(kind) or pa.types.is_integer(kind) else str(kind))
