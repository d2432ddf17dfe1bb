"""The columns of a source in the types that all sources agree on, whatever they were stored as."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

READER_THREADS = 8  # at most, for the parts of one file


def canonical_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column of this type is handed over in: large text, large lists, no codes for values."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return canonical_type(kind.value_type)
    if is_list(kind):
        return pa.large_list(canonical_type(kind.value_type))
    return canonical_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is one of Arrow's five kinds of lists."""
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def to_canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column in the type that all sources agree on; nothing is copied if it has that type."""
    if isinstance(column.type, pa.BaseExtensionType):
        storage = [chunk.storage for chunk in column.chunks]
        return to_canonical(pa.chunked_array(storage, column.type.storage_type))
    if pa.types.is_run_end_encoded(column.type):
        column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], column.type.value_type)
    wanted = canonical_type(column.type)
    return column if column.type == wanted else column.cast(wanted)


def to_canonical_table(table: pa.Table) -> pa.Table:
    """Return a table of the same columns in the types that all sources agree on."""
    columns = [to_canonical(column) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def unpacked_size(column: pa.ChunkedArray) -> int:
    """Return the bytes that the column has when every row holds its own value."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    total = 0
    for chunk in column.chunks:
        values = chunk.dictionary.cast(canonical_type(column.type.value_type))
        if values.type != pa.large_string():
            return int(column.nbytes)
        total += pc.sum(pc.binary_length(values).take(chunk.indices)).as_py() or 0
    return total
