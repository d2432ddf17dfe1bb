"""Tables that are in memory already: Arrow, pandas and Polars frames, columns, lists of dicts."""

from __future__ import annotations

import hashlib
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
VERSION = 1  # of how values become columns; another one makes everything that was kept be read again
KEY = "data.path"
Column = Callable[[str], Any]


class TableSource:
    """A table in memory; `column(name)` returns one of its columns: a list, an array, or Arrow's.

    `odd` are rows that are no rows at all, by number from 0, with what they are: they are in no column.
    """

    def __init__(
        self,
        shown: str,
        names: Sequence[str],
        column: Column,
        *,
        named: bool = True,
        odd: Mapping[int, str] | None = None,
    ) -> None:
        self.shown = shown
        self.base = Path()
        self._names = list(names)
        self._named = named
        self._column = column
        self._odd = odd or {}

    def head(self) -> Head:
        """Return its columns and first rows."""
        check_unique_names(self._names, self.shown, "the table")
        if not self._names:
            fail(KEY, f"{self.shown} has no column.", "It needs at least one.")
        firsts = [_first_values(self._column(name)) for name in self._names]
        return Head(self._names, list(zip(*firsts, strict=True)), self._named)

    def fingerprint(self) -> str:
        """Return a digest of all of its values."""
        sink = _Hashing(repr((VERSION, self._names, self._odd)))
        for name in self._names:
            _hash_column(self._column(name), sink)
        return sink.digest.hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns; rows with a value of another kind than the others' are added to `bad`."""
        import pyarrow as pa

        from finetune.data.arrow_types import to_canonical_table

        for number, what in self._odd.items():
            bad.add(RowLocation(self.shown, number + 1), None, "json", f"is of type {what}, and no dict")
        columns = {name: self._column(name) for name in names}
        length = len(columns[names[0]]) + len(self._odd)
        rows = [number for number in range(length) if number not in self._odd] if self._odd else range(length)
        try:
            arrays = [_as_arrow(values) for values in columns.values()]
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            batch, good = _value_by_value(self.shown, columns, bad, rows)
            arrays, rows = [pa.chunked_array([one]) for one in batch.columns], [rows[number] for number in good]
        table = to_canonical_table(pa.table(arrays, names=list(names)))

        def place(wanted: Ints) -> list[RowLocation]:
            return [RowLocation(self.shown, rows[int(number)] + 1) for number in wanted]

        return Reading(table, place, length)


class _Hashing:
    """A file to write to that keeps a digest only."""

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
    """Return the first values as Python has them."""
    first = values[:SAMPLE]
    for method in ("to_pylist", "tolist"):
        if hasattr(first, method):
            first = getattr(first, method)()
            break
    return [None if _is_nan(value) else value for value in first]


def _as_arrow(values: Any) -> pa.ChunkedArray:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return values
    if hasattr(values, "detach"):  # a torch tensor
        values = values.detach().cpu().numpy()
    if getattr(values, "ndim", 1) == 2:
        flat = pa.array(values.reshape(-1))
        return pa.chunked_array([pa.FixedSizeListArray.from_arrays(flat, values.shape[1])])
    found = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def _value_by_value(
    shown: str, columns: Mapping[str, Any], bad: BadRows, numbers: Sequence[int]
) -> tuple[pa.RecordBatch, list[int]]:
    from finetune.data.sources.type_inference import infer_type, type_rows

    plain = {name: [None if _is_nan(value) else value for value in values] for name, values in columns.items()}
    rows = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    types = {name: infer_type(values) for name, values in plain.items()}
    return type_rows(rows, [RowLocation(shown, number + 1) for number in numbers], types, bad)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # noqa: PLR0124 this is what NaN is


def from_arrow(table: Any, shown: str) -> TableSource:
    """Return the source of anything that exports Arrow columns: a table, a Polars frame, a stream that is read once."""
    import pyarrow as pa

    found: pa.Table = table if isinstance(table, pa.Table) else pa.table(table)
    return TableSource(shown, found.column_names, found.column)


def from_pandas(frame: Any) -> TableSource:
    """Return the source of a pandas frame; NaN in it is a missing value. Columns 0, 1, 2 have no names."""
    found = list(frame.columns)
    named = found != list(range(len(found)))
    names = [str(name) for name in found] if named else [str(i + 1) for i in range(len(found))]
    return TableSource("the pandas frame", names, lambda name: frame.iloc[:, names.index(name)], named=named)


def from_columns(columns: Mapping[Any, Any]) -> TableSource:
    """Return the source of a dict of columns: lists, arrays or tensors of the same length.

    Raises:
        CheckFailed: they are of different lengths, or no columns.
    """
    shown = "the dict of columns"
    named = {str(name): values for name, values in columns.items()}
    lengths: dict[str, int] = {}
    for name, values in named.items():
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
            fail(KEY, f"'{name}' in {shown} is no column, but of type {type(values).__name__}.", "Give a list.")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        what = ", ".join(f"'{name}' has {length:,}" for name, length in lengths.items())
        fail(KEY, f"the columns of {shown} differ in length: {what} rows.", "Make them equally long.")
    return TableSource(shown, list(named), named.__getitem__)


def from_rows(rows: Sequence[Any]) -> TableSource:
    """Return the source of a list of dicts; a key that a row lacks is a missing value there.

    Raises:
        CheckFailed: there is no dict in it.
    """
    shown = "the list of rows"
    odd = {number: type(row).__name__ for number, row in enumerate(rows) if not isinstance(row, Mapping)}
    good = [row for row in rows if isinstance(row, Mapping)]
    keys = {str(name): name for row in good for name in row}
    if not keys:
        what = f"{shown} holds {f'a {type(rows[0]).__name__}' if rows else 'nothing'}, and no dict."
        fail(KEY, what, 'A row is a dict such as {"anchor": "...", "positive": "..."}.')
    return TableSource(shown, list(keys), lambda name: [row.get(keys[name]) for row in good], odd=odd)
