"""A folder of images or meshes with a table that describes them, as the datasets library's imagefolder has it."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.schema.column_spec import quoted_names
from finetune.data.source import Head, Reading, ReadOptions, Source
from finetune.data.sources.errors import fail
from finetune.data.sources.files import find_file
from finetune.data.sources.folder_scan import FolderKind, Scan, path_cell
from finetune.data.sources.open_file import open_files
from finetune.data.sources.passages import Passages

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints

VERSION = 1
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


def table_in(found: Scan, shown: str, key: str) -> str | None:
    """Return the name of the table in the folder, None if there is none.

    Raises:
        CheckFailed: there are several.
    """
    tables = [name for name in TABLES if name in set(found.files)]
    if len(tables) > 1:
        fail(key, f"'{shown}' has several tables: {quoted_names(tables)}.", "Leave one, or rename the others.")
    return tables[0] if tables else None


class FolderTable:
    """The columns of the table; `file_name` becomes `image` (or `mesh`), a path from the folder.

    A row whose file is not below the folder is bad, wherever its path may lead.
    """

    def __init__(self, found: Scan, shown: str, kind: FolderKind, table: str, options: ReadOptions, key: str) -> None:
        self.shown = shown
        self.base = found.root
        self._scan = found
        self._kind = kind
        self._table = _open(found.root / table, replace(options, format="auto", header=True), key)
        self._shown_table = f"{shown.rstrip('/')}/{table}"
        self._files = set(found.files)

    @cached_property
    def _head(self) -> Head:
        return self._table.head()

    @cached_property
    def _own(self) -> dict[str, str]:
        """The names of the columns here, and in the table."""
        names = self._head.names
        file = next((name for name in names if name.strip().lower() == FILE_NAME), None)
        if file is None:
            what = f"has no column '{FILE_NAME}' that names the {self._kind.word}; it has {quoted_names(names)}."
            fail(self._shown_table, what, "Add it, or rename the table so that the folders are taken for classes.")
        taken = {name.strip().lower() for name in names}
        shown = file if self._kind.column in taken else self._kind.column
        return {shown if name == file else name: name for name in names}

    @property
    def _file_column(self) -> str:
        return next(own for own, name in self._own.items() if name.strip().lower() == FILE_NAME)

    def head(self) -> Head:
        """Return the columns and first rows of the table."""
        place = list(self._own).index(self._file_column)
        sample: list[tuple[Any, ...]] = []
        for row in self._head.sample:
            file = row[place]
            sample.append((*row[:place], path_cell(file) if isinstance(file, str) else file, *row[place + 1 :]))
        notes = [f"The {self._kind.word} in '{self.shown}' as its {Path(self._shown_table).name} describes them."]
        return replace(self._head, names=list(self._own), sample=sample, notes=[*notes, *self._head.notes])

    def fingerprint(self) -> str:
        """Return a digest of the table's content, and of names, sizes and times of the files (`Scan.state`)."""
        state = f"{VERSION} {self._kind.word} {self._table.fingerprint()} {self._scan.state(self._scan.of(self._kind))}"
        return hashlib.sha256(state.encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns; rows whose file is not there are told and left out."""
        reading = self._table.read([self._own[name] for name in names], bad)
        table = reading.table.rename_columns(list(names))
        if self._file_column not in names:
            return Reading(table, reading.locate, reading.rows_read)
        return self._with_files(table, reading, bad)

    def _with_files(self, table: pa.Table, reading: Reading, bad: BadRows) -> Reading:
        import numpy as np
        import pyarrow as pa

        column = self._file_column
        given = table[column].to_pylist()
        paths = [self._path(file) for file in given]
        there = np.array([path is not None for path in paths], bool)
        lost = np.flatnonzero(~there)
        for place, row in zip(reading.locate(lost) if len(lost) else [], lost, strict=True):
            text = "" if given[row] is None else str(given[row])
            what = "names no file" if not text.strip() else "there is no such file in the folder"
            bad.add(place, column, "missing", what, text)
        kept = np.flatnonzero(there)
        cells = pa.array([path_cell(path) for path in paths if path is not None], pa.large_string())
        table = table.take(pa.array(kept)) if len(lost) else table
        table = table.set_column(table.schema.get_field_index(column), column, cells)

        def place_of(rows: Ints) -> list[RowLocation]:
            return reading.locate(kept[rows])

        return Reading(table, place_of, reading.rows_read)

    def _path(self, file: Any) -> str | None:
        """Return the file's path from the folder; None if there is none, or not below the folder."""
        if not isinstance(file, str) or file in self._files:
            return file if isinstance(file, str) else None
        path = posixpath.normpath(file.strip().replace("\\", "/"))  # ./a.jpg, cats//a.jpg, cats\a.jpg
        return path if path in self._files else None


def _open(path: Path, options: ReadOptions, key: str) -> Source:
    return Passages(open_files([find_file(path, str(path), key)], str(path), options, key))
