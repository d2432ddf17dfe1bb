"""One array per Arrow file, uncompressed, so that it can be memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


def write_array(path: Path, values: pa.Array) -> None:
    """Write the values as the only column, in one batch.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    schema = pa.schema([("value", values.type)])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch([values], schema=schema))


def read_array(path: Path) -> pa.Array:
    """Return what `write_array` wrote, memory-mapped: loaded on first use, and read-only.

    Raises:
        OSError: the file is missing.
        ValueError: it was not written by `write_array`.
    """
    # Not a context manager: the array still reads from the memory map.
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)


def read_numbers(path: Path) -> np.ndarray[Any, Any]:
    """Return the numbers that `write_array` wrote, as `read_array` does."""
    values: np.ndarray[Any, Any] = read_array(path).to_numpy()
    return values
