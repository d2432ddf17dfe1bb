"""Pairs from one CSV file: what `data=csv` builds."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from finetune.config.types import NotEmptyText, PositiveInt, Range
from finetune.data.beir_folder import is_beir, missing_parts, qrels_file
from finetune.data.csv_head import Head, read_head
from finetune.data.paths import beside, resolve
from finetune.data.roles import Roles, check_columns, find_roles
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset, Table

T = TypeVar("T")
BESIDE = "evaluation"  # the folder that validation_path=auto looks for


@dataclass(frozen=True, kw_only=True)
class CsvData:
    """A CSV file as a source of pairs, and how to read, split and batch it; the keys are those of `conf/data/csv.yaml`.

    Building it looks at nothing; `check_head` looks at the file's first rows, `load` at all of it. Only `load` imports
    NumPy and Arrow, so that a mistake elsewhere in the config does not wait for them.
    """

    path: NotEmptyText
    columns: list[str] | dict[str, str | list[str]] | None
    delimiter: str
    encoding: str
    on_bad_rows: Literal["error", "skip"]
    max_cell_characters: PositiveInt
    limit: Annotated[int, Range(at_least=2)] | None
    batch_size: Annotated[int, Range(at_least=2)]
    max_length: Annotated[int, Range(at_least=4)]  # with fewer little but the special tokens is left
    validation_path: NotEmptyText | None
    validation_fraction: Annotated[float, Range(at_least=0, below=1)]

    def check_head(self) -> list[Problem]:
        """Return what is wrong with the settings, the start of the file, or the validation folder; milliseconds."""
        problems: list[Problem] = []
        _try(self._head_and_roles, problems)
        _try(self._validation_folder, problems)
        return problems

    def load(self, seed: int = 42) -> Dataset:
        """Read the whole file and split it by `seed`; raises `CheckFailed` with everything that is wrong."""
        from finetune.data.beir import read_beir
        from finetune.data.dataset import assemble

        problems: list[Problem] = []
        found = _try(self._head_and_roles, problems)
        folder = _try(self._validation_folder, problems)
        if found is None or problems:
            raise CheckFailed(problems)
        head, roles = found
        table = _try(lambda: self._read(head, roles), problems)
        validation = _try(lambda: read_beir(*folder), problems) if folder else None
        if table is None or problems:
            raise CheckFailed(problems)
        dataset = assemble(table, validation, self.limit, self.validation_fraction, seed)
        return self._with_notes(dataset, head.path, roles)

    def _head_and_roles(self) -> tuple[Head, Roles]:
        problems = _check_dialect(self.delimiter, self.encoding) + check_columns(self.columns)
        if problems:
            raise CheckFailed(problems)
        # On a command line a tab is easily written as the two characters \t.
        delimiter = "\t" if self.delimiter == r"\t" else self.delimiter
        head = read_head(resolve(self.path), self.path, delimiter, self.encoding)
        return head, find_roles(head.header, self.columns)

    def _read(self, head: Head, roles: Roles) -> Table:
        from finetune.data.csv_careful import read_carefully
        from finetune.data.csv_fast import read_fast
        from finetune.data.dataset import Table

        columns = read_fast(head, roles, self.max_cell_characters)
        if columns:
            return Table(self.path, columns[0], columns[1], columns[2:], len(columns[0]), 0)
        reading = read_carefully(head, roles, self.max_cell_characters)
        if reading.bad_rows and self.on_bad_rows == "error":
            raise CheckFailed(reading.problems(self.path))
        anchor, positive, *negatives = reading.columns
        return Table(self.path, anchor, positive, negatives, reading.rows_read, reading.bad_rows)

    def _validation_folder(self) -> tuple[Path, str] | None:
        """Return the folder to evaluate on and its name in messages, None for a held-out part."""
        if self.validation_path is None:
            return None
        if self.validation_path == "auto":
            folder = resolve(self.path).parent / BESIDE
            return (folder, f"{BESIDE}/ beside the data file") if is_beir(folder) else None
        folder = resolve(self.validation_path, "data.validation_path")
        wanted = "It must be a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv."
        if not folder.is_dir():
            missing = (f"there is no folder '{self.validation_path}'.", beside(folder))
            what, advice = (f"'{self.validation_path}' is a file.", wanted) if folder.exists() else missing
            raise CheckFailed([Problem("data.validation_path", what, advice)])
        if parts := missing_parts(folder):
            what = f"'{self.validation_path}' has no {' and no '.join(parts)}."
            raise CheckFailed([Problem("data.validation_path", what, wanted)])
        qrels_file(folder)
        return folder, self.validation_path

    def _with_notes(self, dataset: Dataset, path: Path, roles: Roles) -> Dataset:
        if roles.note:
            dataset.notes.insert(0, roles.note)
        if self.batch_size > len(dataset.train):
            dataset.notes.append(
                f"data.batch_size is {self.batch_size}, but there are {len(dataset.train)} training pairs: "
                "each step takes them all."
            )
        with path.open("rb") as file:
            dataset.facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        return dataset


def _try(look: Callable[[], T], problems: list[Problem]) -> T | None:
    """Return what `look` returns; what it finds wrong is added to `problems`, so that the next can look too."""
    try:
        return look()
    except CheckFailed as failed:
        # Two looks can meet the same obstacle.
        problems += [problem for problem in failed.problems if problem not in problems]
        return None


def _check_dialect(delimiter: str, encoding: str) -> list[Problem]:
    problems = []
    if (len(delimiter) != 1 and delimiter != r"\t") or delimiter in '"\r\n\0':
        what = f"must be one character that is neither a quote nor a line end, not {delimiter!r}."
        problems.append(Problem("data.delimiter", what, 'Usual are "," ";" "|" and "\\t".'))
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, ValueError, TypeError):
        what = f"there is no text encoding '{encoding}'."
        problems.append(Problem("data.encoding", what, "Usual are utf-8, utf-16, cp1252 and latin-1."))
    return problems
