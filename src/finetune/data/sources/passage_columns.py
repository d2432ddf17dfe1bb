"""Arrow columns of passages, and of texts with an instruction, as columns of texts and lists of texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrow_types import is_list
from finetune.data.sources.passage_values import TITLE, Form, text_field

TEXT = pa.large_string()


def holds_passages(kind: pa.DataType) -> bool:
    """Whether a column of this type has passages, one or a list of them per row."""
    if is_list(kind):
        return holds_passages(kind.value_type)
    return pa.types.is_struct(kind) and text_field([field.name for field in kind]) is not None


def column_as_text(column: pa.ChunkedArray, form: Form) -> pa.ChunkedArray:
    """Return a column as texts, or lists of texts; values of another form become null."""
    chunks = column.chunks or [pa.array([], column.type)]
    return pa.chunked_array([_as_text(chunk, form) for chunk in chunks])


def join_titles(title: pa.Array, text: pa.Array) -> pa.Array:
    """Return title and text of each document as one text, without an empty one of them; null where both are null."""
    text = text.cast(TEXT)
    filled_title, filled_text = pc.fill_null(title.cast(TEXT), ""), pc.fill_null(text, "")
    both = pc.binary_join_element_wise(filled_title, filled_text, pa.scalar(" ", TEXT))
    with_title = pc.if_else(_has_content(filled_text), both, filled_title)
    return pc.if_else(_has_content(filled_title), with_title, text)


def _has_content(texts: pa.Array) -> pa.Array:
    return pc.not_equal(pc.utf8_trim_whitespace(texts), "")


def _as_text(values: pa.Array, form: Form) -> pa.Array:
    if form == "instruction":
        return _with_instruction(values)
    if is_list(values.type):
        inner_form: Form = "instruction" if form == "instructions" else form
        return _lists(values, _as_text(values.flatten(), inner_form))
    if pa.types.is_struct(values.type):
        return _passages(values)
    return pa.nulls(len(values), TEXT)


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
    if TITLE not in fields:
        return _texts(text)
    title = pc.struct_field(values, TITLE)
    if not is_list(text.type):
        return join_titles(title, text)
    flat = text.flatten()
    if not is_list(title.type) or len(title.flatten()) != len(flat):
        return _texts(text)
    return _lists(text, join_titles(title.flatten(), flat))


def _texts(values: pa.Array) -> pa.Array:
    """Return texts, or lists of texts, in the canonical type."""
    if is_list(values.type):
        return _lists(values, values.flatten().cast(TEXT))
    return values.cast(TEXT)


def _with_instruction(values: pa.Array) -> pa.Array:
    """Return pairs of an instruction and a text as one text each; null for other values."""
    if not is_list(values.type):
        return pa.nulls(len(values), TEXT)
    is_pair = pc.fill_null(pc.equal(pc.list_value_length(values), 2), False)
    pairs = values.filter(is_pair)
    pair_index = pa.array(is_pair.to_numpy(zero_copy_only=False).cumsum() - 1)
    texts = join_titles(pc.list_element(pairs, 0), pc.list_element(pairs, 1))
    return texts.take(pc.if_else(is_pair, pair_index, None))
