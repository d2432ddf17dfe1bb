"""The files of an output folder, and writing them so that a file is either whole or not there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune.runs.atomic import open_atomically, write_json_atomically

MANIFEST = "manifest.json"
INDEX = "index.usearch"
# What to do if the system refuses to write, as `elsewhere` of `finetune.runs.atomic.explain`.
ELSEWHERE = "choose another folder with out=. What is done is kept: the same command completes it."


class WorkFolder:
    """The hidden folder with what is done so far; it is removed at the end.

    `plan` holds the texts and their duplicates, `vectors` those of each shard's new texts, `claims` the lock of each
    shard, `shards` what is known about each one that is written.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / ".work"
        self.lock = self.path / "lock"
        self.plan = self.path / "plan"
        self.start = self.path / "start.json"

    def make(self) -> None:
        """Make the folders; they may be there."""
        for name in ("vectors", "claims", "shards"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def texts(self, shard: int) -> Path:
        """The ids, texts and kept columns of a shard."""
        return self.plan / "texts" / f"{shard:05}.arrow"

    @property
    def duplicates(self) -> Path:
        """The folder of the duplicates of each shard."""
        return self.plan / "duplicates"

    def vectors(self, shard: int) -> Path:
        """The vectors of the texts that a shard has first, in their order."""
        return self.path / "vectors" / f"{shard:05}.npy"

    def counts(self, shard: int) -> Path:
        """The numbers of texts and tokens that were embedded for a shard, and the seconds that it took."""
        return self.path / "vectors" / f"{shard:05}.json"

    def claim(self, name: str) -> Path:
        """The lock of a piece of work."""
        return self.path / "claims" / f"{name}.lock"

    def shard(self, shard: int) -> Path:
        """The entry of a written shard in the manifest."""
        return self.path / "shards" / f"{shard:05}.json"


def temporary(path: Path) -> Path:
    """Return the name under which this process writes a file until it is whole."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file by `write`, which gets it open; it has its name only once it is whole and on disk.

    Raises:
        Refused: the disk is full or refuses; nothing is left of the file.
    """
    with open_atomically(path, temporary(path), ELSEWHERE) as file:
        write(file)


def write_json(path: Path, content: Any) -> None:
    """Write a file of JSON; errors as those of `write_atomically`."""
    write_json_atomically(path, content, ELSEWHERE)


def write_array(file: BinaryIO, array: NDArray[np.generic]) -> None:
    """Write an array in NumPy's format; unlike `np.save` a full disk is reported with its reason."""
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)


def write_arrow(file: BinaryIO, table: pa.Table, compression: str | None) -> None:
    """Write a table in Arrow's file format, as one batch."""
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(pa.PythonFile(file, "w"), table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, len(table)))
