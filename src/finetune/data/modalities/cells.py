"""The values of a column that holds images or meshes, as texts or bytes."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from finetune.data.arrow_types import is_text
from finetune.errors import CheckFailed, Problem

_BYTES = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view, kinds.is_fixed_size_binary)


def text_or_bytes_columns(column: pa.ChunkedArray, wanted: str) -> list[pa.ChunkedArray]:
    """Return the column as texts (paths, URLs, data: URIs) or bytes; a struct of bytes and path becomes two columns.

    At most one of two columns has a value in each row. Blank texts become null.

    Raises:
        CheckFailed: the column has another type; `wanted` describes the supported ones.
    """
    column = unwrap(column)
    kind = column.type
    fields = _fields(column)
    if fields:
        return [inner for field in fields for inner in text_or_bytes_columns(field, wanted)]
    if is_text(kind) or kinds.is_null(kind):
        texts = column.cast(pa.large_string())
        return [pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)]
    if any(is_kind(kind) for is_kind in _BYTES):
        return [column.cast(pa.large_binary())]
    raise CheckFailed([Problem("data.modality", f"the column holds {kind}; expected {wanted}.")])


def unwrap(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column in its storage type: without an extension type or a dictionary."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return unwrap(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if kinds.is_dictionary(kind):
        return column.cast(kind.value_type)
    return column


def first_non_null(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Return for each row the first value that is not null."""
    if len(columns) == 1:
        return columns[0]
    return pc.coalesce(*columns)


def _fields(column: pa.ChunkedArray) -> list[pa.ChunkedArray]:
    if not kinds.is_struct(column.type):
        return []
    names = [name for name in ("bytes", "path") if column.type.get_field_index(name) >= 0]
    found = [pc.struct_field(column, name) for name in names]
    if len(found) == 2:  # next to bytes a path is only a name
        found[1] = pc.if_else(pc.is_null(found[0]), found[1], None)
    return found
