"""A folder of images or meshes with a table of metadata, as in the datasets library's imagefolder."""

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
    """Return the name of the metadata table in the folder, None if there is none.

    Raises:
        CheckFailed: there are several.
    """
    tables = [name for name in TABLES if name in set(found.files)]
    if len(tables) > 1:
        fail(key, f"'{shown}' has several tables: {quoted_names(tables)}.", "Leave one, or rename the others.")
    if not tables:
        return None
    return tables[0]


class FolderTable:
    """The columns of the table; `file_name` becomes `image` (or `mesh`), a path from the folder.

    A row whose file is not below the folder is invalid, wherever its path leads.
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
        by_lower_case = {name.strip().lower(): name for name in reversed(names)}
        if FILE_NAME not in by_lower_case:
            what = f"has no column '{FILE_NAME}' that names the {self._kind.word}; it has {quoted_names(names)}."
            fail(self._shown_table, what, "Add it, or rename the table so that the folders are used as classes.")
        own = {name: name for name in names}
        file_name = by_lower_case[FILE_NAME]
        if self._kind.column not in by_lower_case:
            own = {self._kind.column if name == file_name else name: name for name in names}
        return own

    @property
    def _file_column(self) -> str:
        """The name here of the column of files."""
        return next(own for own, name in self._own.items() if name.strip().lower() == FILE_NAME)

    def head(self) -> Head:
        """Return the columns and first rows of the table."""
        index = list(self._own).index(self._file_column)
        sample: list[tuple[Any, ...]] = []
        for row in self._head.sample:
            cells = list(row)
            if isinstance(cells[index], str):
                cells[index] = path_cell(cells[index])
            sample.append(tuple(cells))
        notes = [f"The {self._kind.word} in '{self.shown}' as its {Path(self._shown_table).name} describes them."]
        return replace(self._head, names=list(self._own), sample=sample, notes=[*notes, *self._head.notes])

    def fingerprint(self) -> str:
        """Return a digest of the table's content, and of names, sizes and times of the files (`Scan.state`)."""
        state = f"{VERSION} {self._kind.word} {self._table.fingerprint()} {self._scan.state(self._scan.of(self._kind))}"
        return hashlib.sha256(state.encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns; rows whose file is missing are reported and left out."""
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
        exists = np.array([path is not None for path in paths], bool)
        missing, kept = np.flatnonzero(~exists), np.flatnonzero(exists)
        if len(missing):
            table = table.take(pa.array(kept))
            for location, row in zip(reading.locate(missing), missing, strict=True):
                _report_missing(location, column, given[row], bad)
        cells = pa.array([path_cell(path) for path in paths if path is not None], pa.large_string())
        table = table.set_column(table.schema.get_field_index(column), column, cells)

        def locate(rows: Ints) -> list[RowLocation]:
            return reading.locate(kept[rows])

        return Reading(table, locate, reading.rows_read)

    def _path(self, file: Any) -> str | None:
        """Return the file's path from the folder; None if it is missing or not below the folder."""
        if not isinstance(file, str):
            return None
        if file in self._files:
            return file
        path = posixpath.normpath(file.strip().replace("\\", "/"))  # ./a.jpg, cats//a.jpg, cats\a.jpg
        if path in self._files:
            return path
        return None


def _report_missing(location: RowLocation, column: str, file: Any, bad: BadRows) -> None:
    text = "" if file is None else str(file)
    what = "there is no such file in the folder"
    if not text.strip():
        what = "names no file"
    bad.add(location, column, "missing", what, text)


def _open(path: Path, options: ReadOptions, key: str) -> Source:
    return Passages(open_files([find_file(path, str(path), key)], str(path), options, key))
