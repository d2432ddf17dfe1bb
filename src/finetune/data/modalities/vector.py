"""Vectors: ready-made embeddings, as lists of numbers or as text ("[0.1, 0.2]", "0.1 0.2").

N rows of a chunk, D numbers of each, F numbers of all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrow_types import is_list, is_text
from finetune.data.items import STORED
from finetune.data.modalities.cells import unwrap
from finetune.data.modalities.floats import Floats, pack, unpack
from finetune.data.modalities.options import Facts, Options, Progress, Report, no_progress
from finetune.errors import CheckFailed, Problem

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_BETWEEN = r"[\s,;]+"
MOST_CHUNK = 1 << 14  # rows converted at once, so that temporary arrays stay small


def prepare(
    column: pa.ChunkedArray,
    base: Path,  # noqa: ARG001 all modalities are prepared alike
    report: Report,
    options: Options | None = None,  # noqa: ARG001
    progress: Progress = no_progress,
) -> pa.ChunkedArray:
    """Return the vectors as float32 bytes, `large_binary`, null where one is missing or invalid.

    `column` holds lists of numbers of any type, fixed-size or not, or texts of numbers. The width is that of most
    vectors in the first chunk that has any; rows of another width, or with a number that is not finite as float32, are
    reported. -0 becomes 0, so that equal vectors are equal bytes.

    Raises:
        CheckFailed: the column has another type.
    """
    column = unwrap(column)
    as_lists = _as_lists(column.type)
    width, done, packed = -1, 0, []
    for chunk in column.chunks:
        for start in range(0, len(chunk), MOST_CHUNK):
            lists = as_lists(chunk.slice(start, MOST_CHUNK))
            if width < 0:
                width = _usual_width(lists)
            packed.append(_packed(lists, max(0, width), done, report))
            done += len(lists)
            progress(done, len(column))
    return pa.chunked_array(packed, STORED["vector"])


def load(values: pa.Array, options: Options | None = None) -> Floats:  # noqa: ARG001
    """Return the vectors that `prepare` stored, (N, D) float32, without a copy.

    Raises:
        RunError: they have several widths.
    """
    return unpack(values, "vectors")


def facts(values: pa.Array, options: Options | None = None) -> Facts:
    """Return a summary of the vectors for a report: their width, least and greatest Euclidean length."""
    vectors_ND = load(values, options)
    if not len(vectors_ND):
        return {}
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    return {"vector_width": vectors_ND.shape[1], "vector_length": f"{lengths.min():.4g} to {lengths.max():.4g}"}


def is_list_of_numbers(kind: pa.DataType) -> bool:
    """Whether the type is a list of numbers."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_list_of_numbers(kind.storage_type)
    return is_list(kind) and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _as_lists(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """Return the function that converts a chunk to lists of numbers."""
    lists = pa.large_list(pa.float64())
    if is_list_of_numbers(kind) or (is_list(kind) and pa.types.is_null(kind.value_type)):
        return lambda chunk: chunk  # views too: Arrow 26 corrupts them when it casts them to plain lists
    if pa.types.is_null(kind):
        return lambda chunk: chunk.cast(lists)
    if is_text(kind):
        return _split
    what = f"the column holds {kind}; expected vectors: lists of numbers, or texts such as [0.1, 0.2]."
    raise CheckFailed([Problem("data.modality", what)])


def _split(texts: pa.Array) -> pa.Array:
    """Return lists of float64, null for an invalid number."""
    inner = pc.replace_substring_regex(texts.cast(pa.large_string()), r"^\s*[\[(]?\s*", "")
    inner = pc.replace_substring_regex(inner, r"\s*[\])]?\s*$", "")
    inner = pc.if_else(pc.equal(inner, ""), None, inner)
    parts = pc.split_pattern(inner, ",")
    try:  # separated by commas, as in JSON: five times as fast
        numbers = pc.utf8_trim_whitespace(parts.flatten()).cast(pa.float64())
    except pa.ArrowInvalid:
        parts = pc.split_pattern_regex(inner, _BETWEEN)
        numbers = _numbers(parts.flatten())
    ends = np.cumsum(np.r_[0, pc.fill_null(pc.list_value_length(parts), 0).to_numpy()])
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64(), mask=_none_after(parts)), numbers)


def _numbers(texts: pa.Array) -> pa.Array:
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:  # only if a text is invalid, the others are separated from it
        return pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, None).cast(pa.float64())


def _none_after(parts: pa.Array) -> npt.NDArray[np.bool_]:
    """Return the mask of offsets that makes a list null, as `from_arrays` expects it."""
    return np.append(parts.is_null().to_numpy(zero_copy_only=False), False)


def _usual_width(lists: pa.Array) -> int:
    """Return the length that most lists have, -1 if there are no lists."""
    widths, counts = np.unique(pc.list_value_length(lists).drop_null().to_numpy(), return_counts=True)
    if not len(widths):
        return -1
    return int(widths[np.argmax(counts)])


def _packed(lists: pa.Array, width: int, first: int, report: Report) -> pa.Array:
    present_N = lists.is_valid().to_numpy(zero_copy_only=False)
    widths_N = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    fits_N = present_N & (widths_N == width) & (width > 0)
    rows_ND = _floats(lists if fits_N.all() else lists.filter(pa.array(fits_N))).reshape(-1, max(1, width))
    finite = np.isfinite(rows_ND).all(axis=1)
    valid_N = fits_N.copy()
    valid_N[fits_N] = finite
    for row in np.flatnonzero(present_N & ~valid_N):
        report(first + int(row), "vector", _fault(int(widths_N[row]), width))
    if not finite.all():
        rows_ND = rows_ND[finite]
    return pack(rows_ND, valid_N)


def _fault(found: int, width: int) -> str:
    if found == 0:
        return "there are no numbers"
    if found == width:
        return "not all of them are finite numbers"
    numbers = "1 number" if found == 1 else f"{found:,} numbers"
    return f"the vector has {numbers}, others have {width:,}"


def _floats(lists: pa.Array) -> Floats:
    """Return all numbers, (F,) float32, NaN for null; too large numbers become infinite."""
    flat = lists.flatten()
    if pa.types.is_float16(flat.type) or pa.types.is_decimal(flat.type) or pa.types.is_null(flat.type):
        flat = flat.cast(pa.float64())
    numbers: Any = flat.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        narrow: Floats = numbers.astype(np.float32, copy=False)
    return narrow + np.float32(0)  # makes 0 of -0
