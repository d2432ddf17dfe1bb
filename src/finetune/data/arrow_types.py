"""The Arrow types that all sources return, whatever they read, and tests on types."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

READER_THREADS = 8  # at most, for the parts of one file


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is one of Arrow's types of text."""
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is one of Arrow's five types of lists."""
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def canonical_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column of this type is converted to: large strings and lists, no dictionaries or runs."""
    if is_text(kind):
        return pa.large_string()
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return canonical_type(kind.value_type)
    if is_list(kind):
        return pa.large_list(canonical_type(kind.value_type))
    if isinstance(kind, pa.BaseExtensionType):
        return canonical_type(kind.storage_type)
    return kind


def to_canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column in its canonical type; nothing is copied if it has that type."""
    if isinstance(column.type, pa.BaseExtensionType):
        storage = [chunk.storage for chunk in column.chunks]
        return to_canonical(pa.chunked_array(storage, column.type.storage_type))
    if pa.types.is_run_end_encoded(column.type):
        column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], column.type.value_type)
    wanted = canonical_type(column.type)
    if column.type == wanted:
        return column
    return column.cast(wanted)


def to_canonical_table(table: pa.Table) -> pa.Table:
    """Return a table of the same columns in their canonical types."""
    return pa.table(list(map(to_canonical, table.columns)), names=table.column_names)


def unpacked_size(column: pa.ChunkedArray) -> int:
    """Return the size in bytes that the column has when every row holds its own value."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    total = 0
    for chunk in column.chunks:
        values = chunk.dictionary.cast(canonical_type(column.type.value_type))
        if values.type != pa.large_string():
            return int(column.nbytes)
        total += pc.sum(pc.binary_length(values).take(chunk.indices)).as_py() or 0
    return total
