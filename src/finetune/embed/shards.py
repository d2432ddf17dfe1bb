"""Shards of vectors with ids and kept columns: written as Parquet, Arrow or NumPy files, and read again.

Shapes: N rows of a shard, W numbers of a vector as it is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from finetune.embed.corpus import TEXT, VECTOR
from finetune.embed.files import write_array, write_arrow, write_atomically
from finetune.embed.manifest import Manifest, ShardEntry
from finetune.embed.settings import FileFormat
from finetune.errors import FinetuneError


def write_shard(out: Path, shard: int, rows: pa.Table, vectors_NW: NDArray[Any], file_format: FileFormat) -> ShardEntry:
    """Write a shard and return its entry in the manifest.

    Raises:
        Refused: the disk is full.
    """
    rows = rows.drop_columns([TEXT])
    path = out / f"vectors-{shard:05}.{file_format}"
    if file_format == "npy":
        rows_path = out / f"rows-{shard:05}.parquet"
        write_atomically(rows_path, lambda file: _write_parquet(file, rows))
        write_atomically(path, lambda file: write_array(file, vectors_NW))
        return ShardEntry(path.name, len(rows), _digest(path), rows_path.name, _digest(rows_path))
    flat = pa.array(vectors_NW.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, vectors_NW.shape[1])
    table = rows.add_column(1, VECTOR, vectors)
    if file_format == "parquet":
        write_atomically(path, lambda file: _write_parquet(file, table))
    else:
        write_atomically(path, lambda file: write_arrow(file, table, None))
    return ShardEntry(path.name, len(rows), _digest(path))


def _write_parquet(file: BinaryIO, table: pa.Table) -> None:
    # Vectors are random bits, which neither a dictionary nor compression makes smaller.
    names = [name for name in table.column_names if name != VECTOR]
    compression = dict.fromkeys(names, "zstd") | {VECTOR: "none"}
    pq.write_table(table, file, compression=compression, use_dictionary=names, write_page_checksum=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_vectors(out: Path, manifest: Manifest) -> Iterator[NDArray[Any]]:
    """Yield the stored vectors `(N, W)` of each shard.

    Raises:
        FinetuneError: a shard is missing or damaged.
    """
    for entry in manifest.shards:
        try:
            yield _vectors(out, entry, manifest.width)
        except (OSError, ValueError, pa.ArrowException, KeyError) as error:
            raise _damaged(out, entry.file) from error


def read_rows(out: Path, entry: ShardEntry, columns: list[str]) -> pa.Table:
    """Return these of the columns of a shard, apart from the vectors.

    Raises:
        FinetuneError: the shard is missing or damaged.
    """
    path = out / (entry.rows_file or entry.file)
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, columns=columns)
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all().select(columns)
    except (OSError, ValueError, pa.ArrowException, KeyError) as error:
        raise _damaged(out, path.name) from error


def stored_columns(out: Path, manifest: Manifest) -> list[str]:
    """Return the names of the columns that are stored next to the vectors."""
    first = manifest.shards[0]
    path = out / (first.rows_file or first.file)
    if path.suffix == ".parquet":
        schema = pq.read_schema(path)
    else:
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
    return [name for name in schema.names if name != VECTOR]


def _vectors(out: Path, entry: ShardEntry, width: int) -> NDArray[Any]:
    path = out / entry.file
    if path.suffix == ".npy":
        vectors_NW: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        column = read_rows(out, entry, [VECTOR])[VECTOR].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        vectors_NW = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if vectors_NW.shape != (entry.rows, width):
        raise ValueError(f"{path} has the shape {vectors_NW.shape}")
    return vectors_NW


def _damaged(out: Path, name: str) -> FinetuneError:
    what = f"{out / name} is missing or damaged."
    return FinetuneError(what, "Remove the folder and embed the corpus again.")
