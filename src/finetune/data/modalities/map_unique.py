"""A function applied once to each distinct value of a column, in threads; results in the order of the rows.

V distinct values, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT
from finetune.data.modalities.downloads import THREADS
from finetune.data.modalities.options import Options, Progress, Report, UnusableValue
from finetune.data.threads import map_in_threads

R = TypeVar("R")
WINDOW = 512  # values in flight at once, so that memory stays bounded


def map_values(work: Callable[[Any], R], values: pa.Array | pa.ChunkedArray, threads: int) -> Iterator[R]:
    """Yield `work(value)` for each value, in order, computed in threads."""
    return map_in_threads(work, _python_values(values), threads, in_flight=WINDOW)


def threads_for(values: pa.Array | pa.ChunkedArray, options: Options) -> int:
    """Return the number of threads for reading images or meshes: `options.threads`, more if URLs are downloaded."""
    if not pa.types.is_large_string(values.type):
        return options.threads
    if pc.any(pc.match_substring_regex(values, "^https?://", ignore_case=True)).as_py():
        return max(THREADS, options.threads)
    return options.threads


def _python_values(values: pa.Array | pa.ChunkedArray) -> Iterator[Any]:
    for start in range(0, len(values), WINDOW):
        yield from values.slice(start, WINDOW).to_pylist()


def map_unique(
    column: pa.ChunkedArray,
    work: Callable[[Any], R],
    finish: Callable[[R], Any],
    stored: pa.DataType,
    threads: int,
    report: Report,
    progress: Progress,
) -> pa.ChunkedArray:
    """Return `finish(work(value))` for each row as a column of type `stored`, null where there is no value.

    `work` runs in threads, once for each distinct value, and raises `UnusableValue` for a bad one: its rows are then
    reported, in order. `finish` runs in the calling thread, in the order of first occurrence.
    """
    values, code_R = _encoded(column)
    faults: dict[int, UnusableValue] = {}
    chunks: list[pa.Array] = []
    made: list[Any] = []
    for done, result in enumerate(map_values(_catch_unusable(work), values, threads), 1):
        if isinstance(result, UnusableValue):
            faults[done - 1] = result
            made.append(None)
        else:
            made.append(finish(result))
        if len(made) == WINDOW or done == len(values):
            chunks.append(pa.array(made, stored))
            made = []
            progress(done * len(column) // len(values), len(column))
    _report_faults(faults, code_R, report)
    return _by_row(pa.chunked_array(chunks, stored), code_R)


def _catch_unusable(work: Callable[[Any], R]) -> Callable[[Any], R | UnusableValue]:
    def caught(value: Any) -> R | UnusableValue:
        try:
            return work(value)
        except UnusableValue as fault:
            return fault

    return caught


def _encoded(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Ints]:
    """Return the distinct values, (V,), and for each row the index of its value, (R,), -1 for null."""
    encoded = column.dictionary_encode()
    if not encoded.num_chunks:
        return pa.chunked_array([], column.type), np.empty(0, np.int64)
    # Arrow extends one dictionary over all chunks; the last chunk has all of it.
    values = encoded.chunk(encoded.num_chunks - 1).dictionary
    codes = [pc.fill_null(chunk.indices, ABSENT).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return pa.chunked_array([values]), np.concatenate(codes).astype(np.int64)


def _report_faults(faults: dict[int, UnusableValue], code_R: Ints, report: Report) -> None:
    if not faults:
        return
    for row in np.flatnonzero(np.isin(code_R, list(faults))):
        fault = faults[int(code_R[row])]
        report(int(row), fault.kind, fault.what)


def _by_row(values: pa.ChunkedArray, code_R: Ints) -> pa.ChunkedArray:
    if len(values) == len(code_R) and np.array_equal(code_R, np.arange(len(code_R))):
        return values  # no value occurs twice; images in a table are not copied again
    return values.take(pa.array(code_R, mask=code_R == ABSENT))
