"""Arrow columns of passages, and of texts with instructions, as columns of texts and lists of texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrow_types import is_list
from finetune.data.sources.passage_values import TITLE, Form, text_field

TEXT = pa.large_string()


def holds_passages(kind: pa.DataType) -> bool:
    """Whether a column of this type has passages, one or a list of them in a row."""
    if is_list(kind):
        return holds_passages(kind.value_type)
    return pa.types.is_struct(kind) and text_field([field.name for field in kind]) is not None


def column_as_text(column: pa.ChunkedArray, form: Form) -> pa.ChunkedArray:
    """Return a column as texts, or lists of texts; what is not of this form is null."""
    chunks = column.chunks or [pa.array([], column.type)]
    return pa.chunked_array([_as_text(chunk, form) for chunk in chunks])


def join_titles(title: pa.Array, text: pa.Array) -> pa.Array:
    """Return title and text of each document as one text, an empty one of them left out; null where both are null."""
    there = [pc.fill_null(part.cast(TEXT), "") for part in (title, text)]
    has_title, has_text = (pc.not_equal(pc.utf8_trim_whitespace(part), "") for part in there)
    both = pc.binary_join_element_wise(*there, pa.scalar(" ", TEXT))
    return pc.if_else(has_title, pc.if_else(has_text, both, there[0]), text.cast(TEXT))


def _as_text(values: pa.Array, form: Form) -> pa.Array:
    if form == "instruction":
        return _with_instruction(values)
    if is_list(values.type):
        return _lists(values, _as_text(values.flatten(), "instruction" if form == "instructions" else form))
    return _passages(values) if pa.types.is_struct(values.type) else pa.nulls(len(values), TEXT)


def _lists(values: pa.Array, flat: pa.Array) -> pa.Array:
    """Return lists as long as `values` with these flat values; null where `values` is."""
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), flat, mask=values.is_null())


def _passages(values: pa.Array) -> pa.Array:
    fields = [field.name for field in values.type]
    name = text_field(fields)
    if name is None:
        return pa.nulls(len(values), TEXT)
    text = pc.struct_field(values, name)
    title = pc.struct_field(values, TITLE) if TITLE in fields else None
    if not is_list(text.type):
        return text.cast(TEXT) if title is None else join_titles(title, text)
    flat = text.flatten()
    if title is None or not is_list(title.type) or len(title.flatten()) != len(flat):
        return _lists(text, flat.cast(TEXT))
    return _lists(text, join_titles(title.flatten(), flat))


def _with_instruction(values: pa.Array) -> pa.Array:
    """Return pairs of an instruction and a text as one text each."""
    if not is_list(values.type):
        return pa.nulls(len(values), TEXT)
    is_pair = pc.fill_null(pc.equal(pc.list_value_length(values), 2), False)
    pairs = values.filter(is_pair)
    both = pa.array(is_pair.to_numpy(zero_copy_only=False).cumsum() - 1)
    texts = join_titles(pc.list_element(pairs, 0), pc.list_element(pairs, 1))
    return texts.take(pc.if_else(is_pair, both, None))
