"""Python values as Arrow columns: each gets the type of most of its values; the others are reported row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from finetune.data.bad_rows import BadRows, RowLocation, cut

_TYPES_IN_WORDS = {
    "text": "text",
    "number": "a number",
    "bool": "true or false",
    "list": "a list",
    "object": "an object",
    "bytes": "the bytes of a file",
}
_INTEGERS = range(-(2**63), 2**63)


@dataclass(frozen=True)
class InvalidRow:
    """In place of a row that could not be read: the kind of bad row, the fault, and its text."""

    kind: str
    what: str
    text: str


def type_name(value: Any) -> str:
    """Return the type of a value: text, number, bool, list, object, bytes, or the full name of another type."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list | tuple):
        return "list"
    if isinstance(value, Mapping):
        return "object"
    return "bytes" if isinstance(value, bytes) else f"{type(value).__module__}.{type(value).__qualname__}"


def infer_type(values: Iterable[Any]) -> pa.DataType:
    """Return the type of most of the values; null if there are none."""
    present = [value for value in values if value is not None]
    if not present:
        return pa.null()
    most_common = Counter(map(type_name, present)).most_common(1)[0][0]
    kind = pa.null()
    for value in present:
        if type_name(value) == most_common:
            kind = widen(kind, value) or kind
    return kind


def widen(kind: pa.DataType, value: Any) -> pa.DataType | None:
    """Return the narrowest type for `value` and all values of type `kind`, None if there is none."""
    if value is None:
        return kind
    name = type_name(value)
    if name == "list":
        return _widen_list(kind, value)
    if name == "object":
        return _widen_object(kind, value)
    if name == "number":
        return _widen_number(kind, value)
    wanted = {"text": pa.string(), "bool": pa.bool_(), "bytes": pa.binary()}.get(name)
    if kind in (pa.null(), wanted):
        return wanted
    return None


def _widen_number(kind: pa.DataType, value: float) -> pa.DataType | None:
    if kind == pa.float64():
        return kind
    if kind not in (pa.null(), pa.int64()):
        return None
    if isinstance(value, int) and value in _INTEGERS:
        return pa.int64()
    return pa.float64()


def _widen_list(kind: pa.DataType, values: Sequence[Any]) -> pa.DataType | None:
    if kind != pa.null() and not pa.types.is_list(kind):
        return None
    inner = pa.null()
    if kind != pa.null():
        inner = kind.value_type
    for value in values:
        wider = widen(inner, value)
        if wider is None:
            return None
        inner = wider
    return pa.list_(inner)


def _widen_object(kind: pa.DataType, value: Mapping[str, Any]) -> pa.DataType | None:
    if kind != pa.null() and not pa.types.is_struct(kind):
        return None
    fields: dict[str, pa.DataType] = {}
    if kind != pa.null():
        fields = {field.name: field.type for field in kind}
    for name, inner in value.items():
        wider = widen(fields.get(str(name), pa.null()), inner)
        if wider is None:
            return None
        fields[str(name)] = wider
    return pa.struct(list(fields.items()))


def type_rows(
    rows: Sequence[Mapping[str, Any] | InvalidRow],
    locations: Sequence[RowLocation],
    types: dict[str, pa.DataType],
    bad: BadRows,
) -> tuple[pa.RecordBatch, list[int]]:
    """Return the valid rows as columns of `types`, and their indices; the others are added to `bad`.

    A key that a row lacks is null there. `types` is widened in place, as from integers to fractions.
    """
    valid: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in types}
    for index, (row, location) in enumerate(zip(rows, locations, strict=True)):
        if isinstance(row, InvalidRow):
            bad.add(location, None, row.kind, row.what, row.text)
            continue
        wider = {name: widen(kind, row.get(name)) for name, kind in types.items()}
        wrong = _wrong_column(row, wider)
        if wrong is not None:
            _add_fault(bad, location, wrong, row[wrong], types[wrong])
            continue
        types.update(wider)
        valid.append(index)
        for name, column in values.items():
            column.append(_for_arrow(row.get(name)))
    columns = [pa.array(values[name], kind) for name, kind in types.items()]
    schema = pa.schema(list(types.items()))
    return pa.record_batch(columns, schema), valid


def _wrong_column(row: Mapping[str, Any], wider: Mapping[str, pa.DataType | None]) -> str | None:
    """Return the first column whose value does not fit its type, else the first with half of a character."""
    for name, kind in wider.items():
        if kind is None:
            return name
    for name in wider:
        if _has_surrogate(row.get(name)):
            return name
    return None


def _for_arrow(value: Any) -> Any:
    # Arrow supports no mapping but dict, and an integer beyond 64 bits only as a float.
    if isinstance(value, list | tuple):
        return [_for_arrow(inner) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): _for_arrow(inner) for key, inner in value.items()}
    if isinstance(value, bool) or not isinstance(value, int) or value in _INTEGERS:
        return value
    if abs(value) < 2**1023:
        return float(value)
    return float("inf")


def _has_surrogate(value: Any) -> bool:
    """Whether a text in it has half of a character, as `"\\ud800"`, which cannot be encoded."""
    if isinstance(value, str):
        return not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, list | tuple):
        return any(map(_has_surrogate, value))
    return isinstance(value, Mapping) and any(map(_has_surrogate, value.values()))


def _add_fault(bad: BadRows, location: RowLocation, column: str, value: Any, kind: pa.DataType) -> None:
    unsupported = _unsupported_type(value)
    if unsupported is None:
        bad.add(location, column, "type", _type_fault(value, kind), cut(str(value)))
    else:
        bad.add(location, column, "unsupported", f"holds a {unsupported}, which cannot be read")


def _unsupported_type(value: Any) -> str | None:
    """Return the type of a value, or of one inside of it, that no column can have; None if there is none."""
    inner: Iterable[Any] = ()
    if isinstance(value, list | tuple):
        inner = value
    elif isinstance(value, Mapping):
        inner = value.values()
    elif value is not None and type_name(value) not in _TYPES_IN_WORDS:
        return type_name(value)
    return next((found for found in map(_unsupported_type, inner) if found is not None), None)


def _type_fault(value: Any, kind: pa.DataType) -> str:
    if _has_surrogate(value):
        return "has half of a character (a lone surrogate)"
    found = type_name(value)
    wanted = _name_of_type(kind)
    if found == wanted:
        return "has a value inside that is of another type than in the other rows"
    return (
        f"is {_TYPES_IN_WORDS.get(found, f'a {found}')}, in the other rows it is {_TYPES_IN_WORDS.get(wanted, wanted)}"
    )


def _name_of_type(kind: pa.DataType) -> str:
    """Return the name that `type_name` gives to values of an Arrow type."""
    tests = {
        "is_string": "text",
        "is_boolean": "bool",
        "is_binary": "bytes",
        "is_list": "list",
        "is_struct": "object",
        "is_floating": "number",
        "is_integer": "number",
    }
    for test, name in tests.items():
        if getattr(pa.types, test)(kind):
            return name
    return str(kind)
