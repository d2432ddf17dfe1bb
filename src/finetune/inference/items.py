"""The items that a user gives, checked: texts as Arrow arrays, everything else as lists.

N items.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.errors import FinetuneError

_TEXT = pa.large_string()


def check_items(items: Any, what: str = "items") -> None:
    """Check that `items` is a collection, not one item.

    Raises:
        FinetuneError: it is a single text, None, a table, or no collection at all.
    """
    if isinstance(items, str | bytes | Path):
        shown = f"{items!r:.60}"
        raise FinetuneError(f"{what} is one item, {shown}, not a list of them.", "Give a list: encode([item]).")
    if hasattr(items, "column_names") or hasattr(items, "columns"):
        # Iterating a frame of pandas yields the names of its columns, one of Polars its columns.
        pairs = "pairs of texts are zip(frame['query'], frame['text'])"
        raise FinetuneError(f"{what} is a table ({type(items).__name__}).", f"Give a column, frame['text']; {pairs}.")
    if not isinstance(items, Iterable) or isinstance(items, dict):
        kind = "None" if items is None else f"of type {type(items).__name__}"
        raise FinetuneError(f"{what} is {kind}, not a list of items.", "Give a list of texts, or another iterable.")
    if isinstance(items, np.ndarray) and not items.ndim:
        raise FinetuneError(f"{what} is an array without dimensions.", "Give a list: encode([item]).")


def blocks_of(items: Any, size: int) -> Iterator[Any]:
    """Yield `items` in lists or Arrow slices of at most `size`; an iterator is read no further than that."""
    if isinstance(items, pa.ChunkedArray):
        for chunk in items.chunks:
            yield from blocks_of(chunk, size)
    elif isinstance(items, pa.Array):
        yield from (items.slice(start, size) for start in range(0, len(items), size))
    else:
        iterator = iter(items)
        while block := list(islice(iterator, size)):
            yield block


def materialized(items: Any) -> Any:
    """Return `items` as a list, tuple or array: unchanged if it is one.

    Raises:
        FinetuneError: it yields another number of items than its length.
    """
    if isinstance(items, list | tuple | np.ndarray | pa.Array | pa.ChunkedArray):
        return items
    values = list(items)
    if isinstance(items, Sized) and len(items) != len(values):
        what = f"items is of type {type(items).__name__}, has the length {len(items)} and yields {len(values)} items."
        raise FinetuneError(what, "Give a list of the items.")
    return values


def as_texts(items: Any, what: str = "items", first: int = 0) -> pa.Array:
    """Return texts as `large_string` without nulls; messages count from `first`.

    Raises:
        FinetuneError: an item is no text: None, NaN, a number, or another object.
    """
    if isinstance(items, pa.ChunkedArray):
        items = items.combine_chunks()
    if isinstance(items, pa.Array):
        items = _plain(items, what)
    else:
        values = items if isinstance(items, list) else list(items)
        try:
            items = pa.array(values, _TEXT)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise _not_a_text(values, what, first) from error
        if any(issubclass(kind, bytes) for kind in set(map(type, values))):  # Arrow takes them as UTF-8
            raise _not_a_text(values, what, first)
    if items.null_count:
        place = int(np.flatnonzero(items.is_null().to_numpy(zero_copy_only=False))[0])
        raise FinetuneError(f"{what}[{first + place}] is None, not a text.", _ADVICE)
    return items


_ADVICE = "Give texts; an empty text is '', and what is missing has to be left out."


def _plain(array: pa.Array, what: str) -> pa.Array:
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise FinetuneError(f"{what} is an Arrow array of {array.type}, not of texts.", _ADVICE)
    return array.cast(_TEXT)


def _not_a_text(values: Sequence[Any], what: str, first: int) -> FinetuneError:
    for place, value in enumerate(values):
        if not isinstance(value, str):
            return FinetuneError(f"{what}[{first + place}] is {_described(value)}, not a text.", _ADVICE)
        try:
            value.encode()
        except UnicodeEncodeError:
            shown = f"{what}[{first + place}] has a character that is not valid Unicode (a lone surrogate)."
            return FinetuneError(shown, "Decode the text with errors='replace', or remove the character.")
    return FinetuneError(f"{what} are not all texts.", _ADVICE)


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, int | float | np.number):
        return f"the number {value}"
    return f"a {type(value).__name__}"


def as_pairs(items: Any, first: int = 0) -> tuple[pa.Array, pa.Array]:
    """Return the left and the right texts of pairs.

    Raises:
        FinetuneError: an item is no pair of texts.
    """
    values = list(items)
    for place, value in enumerate(values):
        if not isinstance(value, tuple | list) or len(value) != 2:
            shown = f"items[{first + place}] is {_described(value)}, and this model scores pairs of texts."
            raise FinetuneError(shown, "Give pairs: [(query, document), ...].")
    left, right = [value[0] for value in values], [value[1] for value in values]
    return as_texts(left, "left texts", first), as_texts(right, "right texts", first)


def distinct(texts: pa.Array) -> tuple[pa.Array, Ints]:
    """Return the distinct texts, longest first, and the index of each text among them, `(N,)`."""
    encoded = texts.dictionary_encode()
    values = encoded.dictionary
    lengths = np.diff(np.frombuffer(values.buffers()[1], np.int64, len(values) + 1, 8 * values.offset))
    order = np.argsort(-lengths, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return values.take(pa.array(order)), rank[encoded.indices.to_numpy()]
