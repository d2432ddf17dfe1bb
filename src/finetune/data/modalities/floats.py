"""Rows of float32 numbers in an Arrow array of bytes, one value per row.

N rows, D numbers each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune.errors import RunError

Floats = npt.NDArray[np.float32]
WIDTH = 4  # bytes of one number


def pack(rows_ND: Floats, good_M: npt.NDArray[np.bool_]) -> pa.Array:
    """Return M rows as `large_binary`: those of `rows_ND` where `good_M` is true, null elsewhere."""
    data = np.ascontiguousarray(rows_ND, "<f4")
    offsets = np.zeros(len(good_M) + 1, np.int64)
    np.cumsum(good_M * (data.shape[1] * WIDTH), out=offsets[1:])
    valid = None if good_M.all() else pa.py_buffer(np.packbits(good_M, bitorder="little"))
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(good_M), buffers)


def unpack(values: pa.Array | pa.ChunkedArray, what: str) -> Floats:
    """Return the rows, (N, D), read-only, and without a copy if they are contiguous.

    Raises:
        RunError: the rows have several widths; `what` names the items in the message.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    if not len(values):
        return np.empty((0, 0), np.float32)
    offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
    widths = np.unique(np.diff(offsets) // WIDTH)
    if len(widths) != 1:
        several = ", ".join(map(str, widths[:5]))
        raise RunError(f"there are {what} of {several} numbers.", "All columns must have the same number of them.")
    numbers = np.frombuffer(values.buffers()[2], "<f4", count=len(values) * int(widths[0]), offset=int(offsets[0]))
    numbers.flags.writeable = False  # the memory belongs to Arrow
    return numbers.reshape(len(values), int(widths[0]))
