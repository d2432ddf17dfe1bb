"""A folder of images or meshes, by class: `root/<class>/…/file`; or with a table of them (`folder_table.py`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.quoting import quoted, typed
from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.schema.column_spec import quoted_names
from finetune.data.source import Head, Reading, ReadOptions, Source
from finetune.data.sources.errors import fail
from finetune.data.sources.folder_scan import FolderKind, Scan, folder_kind, path_cell, scan_folder
from finetune.data.sources.folder_table import FolderTable, table_in

if TYPE_CHECKING:
    from finetune.data.arrays import Ints

VERSION = 1  # of how folders are read; another one makes everything that was kept be read again
LABEL = "label"
SAMPLE = 20
TRAIN = {"train", "training"}
OTHER_SPLITS = {"test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"}


def open_folder(path: Path, shown: str, options: ReadOptions, key: str) -> Source:
    """Return the source of a folder of images or meshes.

    With a `metadata.csv`, `.jsonl` or `.parquet` in it that names them (`file_name`) the columns are those of that
    table. Else the class of a file is the first folder on its way, and files without any folder have none.

    Raises:
        CheckFailed: there is nothing of the kind in it, there are both, or only one class; it may not be read; links
            lead out of it.
    """
    found = scan_folder(path, shown, key)
    kind = folder_kind(found, options, shown, key)
    if table := table_in(found, shown, key):
        return FolderTable(found, shown, kind, table, options, key)
    return ClassFolder(found, shown, kind, key)


class ClassFolder:
    """Files of one kind; columns: `image` (or `mesh`), a path from the folder, and `label` if there are classes."""

    def __init__(self, found: Scan, shown: str, kind: FolderKind, key: str) -> None:
        self.shown = shown
        self.base = found.root
        self.kind = kind
        self._scan = found
        files = found.of(kind)
        classed = [file for file in files if "/" in file]
        self._is_classed = bool(classed)
        self._files = _only_train(classed or files)
        self._others = len(found.files) - len(self._files)
        self._test = len(classed or files) - len(self._files)
        if self._is_classed:
            self._refuse_no_classes(key)

    @cached_property
    def labels(self) -> list[str]:
        """The class of each file."""
        return [file.partition("/")[0] for file in self._files]

    def _refuse_no_classes(self, key: str) -> None:
        classes = sorted(set(self.labels))
        if {name.lower() for name in classes} <= TRAIN | OTHER_SPLITS:
            path = quoted(str(Path(self.shown) / next((n for n in classes if n.lower() in TRAIN), classes[0])))
            what = f"the folders in '{self.shown}' are parts of a data set, not classes: {quoted_names(classes)}."
            fail(key, what, f"Name one of them: {typed(key, path)}")
        if len(classes) == 1:
            path = quoted(str(Path(self.shown) / classes[0]))
            what = f"'{self.shown}' has one class only, '{classes[0]}', and nothing can be told apart."
            fail(key, what, f"Give each class its folder; for {self.kind.word} without classes: {typed(key, path)}")

    def head(self) -> Head:
        """Return the columns and a few rows of different classes; what is left out is told in the notes."""
        step = max(1, len(self._files) // SAMPLE)
        rows = range(0, len(self._files), step)[:SAMPLE]
        if not self._is_classed:
            return Head([self.kind.column], [(path_cell(self._files[row]),) for row in rows], notes=self._notes())
        sample = [(path_cell(self._files[row]), self.labels[row]) for row in rows]
        return Head([self.kind.column, LABEL], sample, notes=self._notes())

    def _notes(self) -> list[str]:
        classes = len(set(self.labels)) if self._is_classed else 0
        notes = [f"{len(self._files):,} {self.kind.word} in {classes:,} folders, each a class."] if classes else []
        if self._test:
            notes.append(f"{self._test:,} {self.kind.word} in folders for testing (as test/) are left out.")
        if others := self._others - self._test + self._scan.unnamable:
            notes.append(f"{others:,} other {'file is' if others == 1 else 'files are'} left out.")
        return notes

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and times, see `Scan.state`."""
        state = f"{VERSION} {self.kind.word} {self._is_classed} {self._scan.state(self._files)}"
        return hashlib.sha256(state.encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return the paths from the folder, and the classes."""
        import pyarrow as pa

        columns = {self.kind.column: list(map(path_cell, self._files)), LABEL: self.labels}
        table = pa.table({name: pa.array(columns[name], pa.large_string()) for name in names})
        return Reading(table, self._places, len(self._files))

    def _places(self, rows: Ints) -> list[RowLocation]:
        # A row has no line; the text that is told beside it is the path of the file.
        return [RowLocation(self.shown, int(row) + 1) for row in rows]


def _only_train(files: list[str]) -> list[str]:
    """Return only the files for training where each class has them apart, as ModelNet: class/train, class/test."""
    split = [parts[1].lower() if len(parts := file.split("/", 2)) > 2 else "" for file in files]
    if not any(name in TRAIN for name in split):
        return files
    return [file for file, name in zip(files, split, strict=True) if name not in OTHER_SPLITS]
