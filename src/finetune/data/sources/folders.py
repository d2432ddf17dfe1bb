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
TRAIN_SPLITS = {"train", "training"}
OTHER_SPLITS = {"test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"}


def open_folder(path: Path, shown: str, options: ReadOptions, key: str) -> Source:
    """Return the source of a folder of images or meshes.

    With a `metadata.csv`, `.jsonl` or `.parquet` in it that names them (`file_name`) the columns are those of that
    table. Otherwise the class of a file is the first folder of its path, and files outside of folders have none.

    Raises:
        CheckFailed: it holds neither images nor meshes, or both, or only one class; it cannot be read; links lead out
            of it.
    """
    found = scan_folder(path, shown, key)
    kind = folder_kind(found, options, shown, key)
    table = table_in(found, shown, key)
    if table is not None:
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
        usable = classed or files
        self._files = _only_train(usable)
        self._test_files = len(usable) - len(self._files)
        self._other_files = len(found.files) - len(usable) + found.unnamable
        if self._is_classed:
            self._check_classes(key)

    @cached_property
    def labels(self) -> list[str]:
        """The class of each file."""
        return [file.partition("/")[0] for file in self._files]

    def _check_classes(self, key: str) -> None:
        classes = sorted(set(self.labels))
        if {name.lower() for name in classes} <= TRAIN_SPLITS | OTHER_SPLITS:
            train = [name for name in classes if name.lower() in TRAIN_SPLITS]
            path = quoted(str(Path(self.shown) / (train or classes)[0]))
            what = f"the folders in '{self.shown}' are splits of a data set, not classes: {quoted_names(classes)}."
            fail(key, what, f"Name one of them: {typed(key, path)}")
        if len(classes) == 1:
            path = quoted(str(Path(self.shown) / classes[0]))
            what = f"'{self.shown}' has one class only, '{classes[0]}', and a class has nothing to be compared with."
            fail(key, what, f"Give each class its folder; for {self.kind.word} without classes: {typed(key, path)}")

    def head(self) -> Head:
        """Return the columns and a few rows of different classes; the notes count the files that are left out."""
        step = max(1, len(self._files) // SAMPLE)
        rows = range(0, len(self._files), step)[:SAMPLE]
        if not self._is_classed:
            return Head([self.kind.column], [(path_cell(self._files[row]),) for row in rows], notes=self._notes())
        sample = [(path_cell(self._files[row]), self.labels[row]) for row in rows]
        return Head([self.kind.column, LABEL], sample, notes=self._notes())

    def _notes(self) -> list[str]:
        notes = []
        if self._is_classed:
            folders = len(set(self.labels))
            notes.append(f"{len(self._files):,} {self.kind.word} in {folders:,} folders, each a class.")
        if self._test_files:
            notes.append(f"{self._test_files:,} {self.kind.word} in folders for testing (as test/) are left out.")
        if self._other_files:
            files = "file is" if self._other_files == 1 else "files are"
            notes.append(f"{self._other_files:,} other {files} left out.")
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
        return Reading(table, self._locate, len(self._files))

    def _locate(self, rows: Ints) -> list[RowLocation]:
        # A row has no line; the text next to it in messages is the path of the file.
        return [RowLocation(self.shown, int(row) + 1) for row in rows]


def _only_train(files: list[str]) -> list[str]:
    """Return only the files for training if classes have a folder for each split, as ModelNet: class/train."""
    splits = [_split(file) for file in files]
    if TRAIN_SPLITS.isdisjoint(splits):
        return files
    return [file for file, split in zip(files, splits, strict=True) if split not in OTHER_SPLITS]


def _split(file: str) -> str:
    """Return the folder inside that of the class, in lower case; an empty text if there is none."""
    parts = file.split("/", 2)
    if len(parts) < 3:
        return ""
    return parts[1].lower()
