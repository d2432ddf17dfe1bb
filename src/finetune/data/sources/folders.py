"""A folder of pictures or meshes: by class, or with a table that describes them; and arrays of vectors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.bad_rows import BadRows, Place
from finetune.data.media.recognise import IMAGES, MESHES
from finetune.data.sources.refusing import refuse
from finetune.data.sources.source import Head, Reading, ReadOptions, Source
from finetune.data.sources.vectors import open_vectors

if TYPE_CHECKING:
    from finetune.data.arrays import Ints

__all__ = ["open_folder", "open_vectors"]

VERSION = 1
KINDS = {"images": ("image", IMAGES), "meshes": ("mesh", MESHES)}
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as the datasets library's imagefolder has them
FILE_NAME = "file_name"
_SAMPLE = 5


def open_folder(path: Path, options: ReadOptions, key: str) -> Source:
    """Return the source of a folder of images or meshes (`options.format`): by class, or as its metadata table says.

    Raises:
        CheckFailed: it is no folder, or there is nothing of the kind in it.
    """
    if not path.is_dir():
        refuse(
            key, f"'{path}' is no folder.", f"data.format={options.format} reads a folder with a folder for each class."
        )
    for name in TABLES:
        if (path / name).is_file():
            return _Described(path, path / name, options)
    return _ByClass(path, options.format, key)


class _ByClass:
    """`root/<class>/…/file`: columns image (or mesh) and label, which is the first folder below the root."""

    def __init__(self, root: Path, kind: str, key: str) -> None:
        self.shown = str(root)
        self.base = root
        self.column, endings = KINDS[kind]
        self.files, self.others = _files(root, endings)
        if not self.files:
            what = f"'{root}' holds no {kind} ({', '.join(endings)}) in folders."
            refuse(key, what, f"There must be a folder for each class, as in {root}/cats/1{endings[0]}.")
        self.labels = [file.split(os.sep, 1)[0] for file in self.files]
        if len(set(self.labels)) == 1:
            what = f"'{root}' has one class only, '{self.labels[0]}': nothing can be told from it."
            refuse(key, what, "There must be a folder for each class.")

    def head(self) -> Head:
        sample = [*zip(self.files[:_SAMPLE], self.labels[:_SAMPLE], strict=True)]
        notes = [f"Reading the {self.column}s in '{self.shown}', each folder a class."]
        if self.others:
            notes.append(f"{self.others:,} other files in it are not read.")
        return Head([self.column, "label"], sample, notes=notes)

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and times: reading all pictures would take as long as looking at them."""
        digest = hashlib.sha256(f"{VERSION} {self.column}".encode())
        for file in self.files:
            state = (self.base / file).stat()
            digest.update(f"{file!r} {state.st_size} {state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        import pyarrow as pa

        columns = {self.column: self.files, "label": self.labels}
        table = pa.table({name: pa.array(columns[name], pa.large_string()) for name in names})
        return Reading(table, self._places, len(self.files))

    def _places(self, rows: Ints) -> list[Place]:
        # A picture is a file of its own: there is no line to name.
        return [Place(str(self.base / self.files[int(row)]), 1) for row in rows]


def _files(root: Path, endings: tuple[str, ...]) -> tuple[list[str], int]:
    """Return the files of the kind in the folders of `root`, sorted, and how many others there are."""
    found, others = [], 0
    for path in _walk(root):
        relative = os.path.relpath(path, root)
        if os.sep not in relative or not path.name.lower().endswith(endings):
            others += 1
        elif _is_utf8(relative):
            found.append(relative)
        else:
            others += 1
    return sorted(found), others


def _walk(root: Path) -> Iterator[Path]:
    inside = root.resolve()
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(folder) / name
            # A link may lead anywhere: only what lies below the root is data.
            if not name.startswith(".") and path.resolve().is_relative_to(inside):
                yield path


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Described:
    """A folder with a table of its files: the table's columns, `file_name` as the path of the picture or mesh."""

    def __init__(self, root: Path, table: Path, options: ReadOptions) -> None:
        from dataclasses import replace

        from finetune.data.sources.open import open_source

        self.shown = str(root)
        self.base = root
        self.column = KINDS[options.format][0]
        self._table = open_source(str(table), replace(options, format="auto"))
        if FILE_NAME not in [name.strip() for name in self._table.head().names]:
            refuse(
                str(table), f"has no column '{FILE_NAME}'.", f"It names the file of each {self.column}, below {root}."
            )

    def head(self) -> Head:
        head = self._table.head()
        names = [self.column if name.strip() == FILE_NAME else name for name in head.names]
        return Head(names, head.sample, head.named, head.notes)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{VERSION} {self.column} {self._table.fingerprint()}".encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        own = {(self.column if name.strip() == FILE_NAME else name): name for name in self._table.head().names}
        reading = self._table.read([own[name] for name in names], bad)
        return Reading(reading.table.rename_columns(list(names)), reading.place, reading.rows_read)
