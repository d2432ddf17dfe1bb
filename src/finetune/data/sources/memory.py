"""Tables in memory: Arrow tables, pandas and Polars data frames, dicts of columns, lists of dicts or of tuples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.source import Head, Reading
from finetune.data.sources.errors import check_unique_names, fail

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints

SAMPLE = 20
VERSION = 1  # of converting values to columns; a new version invalidates the cache
KEY = "data.path"
_ROWS = "the list of rows"
Column = Callable[[str], Any]


class TableSource:
    """A table in memory; `column(name)` returns one of its columns: a list, an array, or an Arrow array.

    `invalid` says what is wrong with rows that the columns do not contain, by index from 0.
    """

    def __init__(
        self,
        shown: str,
        names: Sequence[str],
        column: Column,
        *,
        named: bool = True,
        invalid: Mapping[int, str] | None = None,
    ) -> None:
        self.shown = shown
        self.base = Path()
        self._names = list(names)
        self._named = named
        self._column = column
        self._invalid = invalid or {}

    def head(self) -> Head:
        """Return its columns and first rows."""
        check_unique_names(self._names, self.shown, "the table")
        if not self._names:
            fail(KEY, f"{self.shown} has no column.", "It needs at least one.")
        firsts = [_first_values(self._column(name)) for name in self._names]
        return Head(self._names, list(zip(*firsts, strict=True)), self._named)

    def fingerprint(self) -> str:
        """Return a digest of all of its values."""
        sink = _Hashing(repr((VERSION, self._names, self._invalid)))
        for name in self._names:
            _hash_column(self._column(name), sink)
        return sink.digest.hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns; rows with a value of another type than most are added to `bad`."""
        import pyarrow as pa

        from finetune.data.arrow_types import to_canonical_table

        for number, what in self._invalid.items():
            bad.add(RowLocation(self.shown, number + 1), None, "row", what)
        columns = {name: self._column(name) for name in names}
        length = len(columns[names[0]]) + len(self._invalid)
        rows: Sequence[int] = range(length)
        if self._invalid:
            rows = [row for row in rows if row not in self._invalid]
        try:
            arrays = [_as_arrow(values) for values in columns.values()]
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            batch, valid = _value_by_value(self.shown, columns, bad, rows)
            arrays = [pa.chunked_array([column]) for column in batch.columns]
            rows = [rows[index] for index in valid]
        table = to_canonical_table(pa.table(arrays, names=list(names)))

        def locate(wanted: Ints) -> list[RowLocation]:
            return [RowLocation(self.shown, rows[int(index)] + 1) for index in wanted]

        return Reading(table, locate, length)


class _Hashing:
    """A file object for writing that keeps only a digest."""

    closed = False

    def __init__(self, start: str) -> None:
        self.digest = hashlib.sha256(start.encode())

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _hash_column(values: Any, sink: _Hashing) -> None:
    import pyarrow as pa

    try:
        table = pa.table([_as_arrow(values)], names=["value"]).combine_chunks()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        for value in values:
            sink.write(repr(value).encode("utf-8", "backslashreplace"))
        return
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1 << 16)


def _first_values(values: Any) -> list[Any]:
    """Return the first values as Python objects."""
    first = values[:SAMPLE]
    for method in ("to_pylist", "tolist"):
        if hasattr(first, method):
            first = getattr(first, method)()
            break
    return list(map(_nan_as_none, first))


def _as_arrow(values: Any) -> pa.ChunkedArray:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return values
    if hasattr(values, "detach"):  # a torch tensor
        values = values.detach().cpu().numpy()
    if getattr(values, "ndim", 1) == 2:
        flat = pa.array(values.reshape(-1))
        return pa.chunked_array([pa.FixedSizeListArray.from_arrays(flat, values.shape[1])])
    array = values
    if not isinstance(values, pa.Array):
        array = pa.array(values, from_pandas=True)
    if isinstance(array, pa.ChunkedArray):
        return array
    return pa.chunked_array([array])


def _value_by_value(
    shown: str, columns: Mapping[str, Any], bad: BadRows, numbers: Sequence[int]
) -> tuple[pa.RecordBatch, list[int]]:
    from finetune.data.sources.type_inference import infer_type, type_rows

    present = {name: list(map(_nan_as_none, values)) for name, values in columns.items()}
    rows = [dict(zip(present, row, strict=True)) for row in zip(*present.values(), strict=True)]
    types = {name: infer_type(values) for name, values in present.items()}
    return type_rows(rows, [RowLocation(shown, number + 1) for number in numbers], types, bad)


def _nan_as_none(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def from_arrow(table: Any, shown: str) -> TableSource:
    """Return the source of an object that exports Arrow columns: a table, a data frame, a stream (read once)."""
    import pyarrow as pa

    found: pa.Table = table if isinstance(table, pa.Table) else pa.table(table)
    return TableSource(shown, found.column_names, found.column)


def from_pandas(frame: Any) -> TableSource:
    """Return the source of a pandas data frame; NaN is a missing value, and columns 0, 1, 2 have no names."""
    found = list(frame.columns)
    named = found != list(range(len(found)))
    names = list(map(str, found))
    if not named:
        names = [str(index + 1) for index in range(len(found))]
    return TableSource("the pandas frame", names, lambda name: frame.iloc[:, names.index(name)], named=named)


def from_columns(columns: Mapping[Any, Any]) -> TableSource:
    """Return the source of a dict of columns: lists, arrays or tensors of the same length.

    Raises:
        CheckFailed: they differ in length, or are not columns.
    """
    shown = "the dict of columns"
    named = {str(name): values for name, values in columns.items()}
    lengths: dict[str, int] = {}
    for name, values in named.items():
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
            fail(KEY, f"'{name}' in {shown} is not a column, but of type {type(values).__name__}.", "Give a list.")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        what = ", ".join(f"'{name}' has {length:,}" for name, length in lengths.items())
        fail(KEY, f"the columns of {shown} differ in length: {what} rows.", "Make them equally long.")
    return TableSource(shown, list(named), named.__getitem__)


def from_rows(rows: Sequence[Any]) -> TableSource:
    """Return the source of a list of dicts, or of tuples, whose columns have no names unless they are named tuples.

    A key that a dict lacks is a missing value there.

    Raises:
        CheckFailed: it contains no dict and no tuple.
    """
    if any(isinstance(row, Mapping) for row in rows):
        return _from_dicts(rows)
    if not any(_is_tuple(row) for row in rows):
        content = f"a {type(rows[0]).__name__}" if rows else "nothing"
        advice = 'A row is a dict such as {"anchor": "...", "positive": "..."}, or a tuple such as ("...", "...").'
        fail(KEY, f"{_ROWS} holds {content}, and no dict.", advice)
    return _from_tuples(rows)


def _from_dicts(rows: Sequence[Any]) -> TableSource:
    invalid = {}
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            invalid[index] = f"is of type {type(row).__name__}, not a dict"
    good = [row for row in rows if isinstance(row, Mapping)]
    keys = {str(name): name for row in good for name in row}
    return TableSource(_ROWS, list(keys), lambda name: [row.get(keys[name]) for row in good], invalid=invalid)


def _from_tuples(rows: Sequence[Any]) -> TableSource:
    first = next(row for row in rows if _is_tuple(row))
    named = hasattr(first, "_fields")
    names = list(first._fields) if named else [str(index + 1) for index in range(len(first))]
    good, invalid = [], {}
    for index, row in enumerate(rows):
        if not _is_tuple(row):
            invalid[index] = f"is of type {type(row).__name__}, not a tuple"
        elif len(row) != len(names):
            invalid[index] = f"has {len(row)} values, and the first row has {len(names)}"
        else:
            good.append(row)
    places = {name: place for place, name in enumerate(names)}
    return TableSource(_ROWS, names, lambda name: [row[places[name]] for row in good], named=named, invalid=invalid)


def _is_tuple(row: Any) -> bool:
    return isinstance(row, tuple | list)
