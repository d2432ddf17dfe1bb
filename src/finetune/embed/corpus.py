"""The rows of a corpus with their ids and texts, in parts; rows without a text are left out and listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.bad_rows import BadRows
from finetune.data.beir_folder import corpus_files
from finetune.data.paths import names_files, resolve
from finetune.data.schema.columns import to_texts
from finetune.data.source import Head, Reading, Source, stream
from finetune.data.sources.open import open_source
from finetune.data.sources.passage_columns import join_titles
from finetune.data.sources.snapshot import number_problems
from finetune.embed.columns import CorpusColumns, find_columns
from finetune.embed.settings import DataSettings, EmbedSettings
from finetune.errors import CheckFailed, Problem

ID, VECTOR = "id", "vector"
TEXT = "\0text"  # of the joined texts; a column of the data may be called `text`


@dataclass(frozen=True)
class Corpus:
    """A source of texts and its columns."""

    source: Source
    columns: CorpusColumns
    limit: int | None

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the content and of how it is read; reads all of it."""
        return self.source.fingerprint()

    def rows(self, bad: BadRows) -> Iterator[pa.Table]:
        """Yield all rows with a text in parts, as columns `ID`, `TEXT` and those that are kept.

        Without a column of ids the id is the row number, from 0. Rows that cannot be read, or have no text, are added
        to `bad`.

        Raises:
            CheckFailed: the source cannot be read to its end, or a column holds no texts.
        """
        first, types = 0, dict[str, pa.DataType]()
        for reading in stream(self.source, self.columns.names, bad):
            count = reading.table.num_rows
            if self.limit is not None:
                count = min(count, self.limit - first)
            yield self._with_texts(reading, first, count, types, bad)
            first += count
            if first == self.limit:
                return

    def _with_texts(
        self, reading: Reading, first: int, count: int, types: dict[str, pa.DataType], bad: BadRows
    ) -> pa.Table:
        table = reading.table.slice(0, count).combine_chunks()
        texts = reduce(join_titles, [_column(to_texts(name, table[name])) for name in self.columns.texts])
        is_blank_N = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True).to_numpy(zero_copy_only=False)
        self._report(reading, texts, np.flatnonzero(is_blank_N), bad)
        kept = pa.array(np.flatnonzero(~is_blank_N))
        columns = {ID: self._ids(table, first), TEXT: texts}
        for name in self.columns.keep:
            columns[name] = _column(table[name])
        for name, column in columns.items():
            columns[name] = _as_before(column, types.setdefault(name, column.type), name)
        return pa.table(columns).take(kept)

    def _ids(self, table: pa.Table, first: int) -> pa.Array:
        if self.columns.id is None:
            return pa.array(np.arange(first, first + table.num_rows))
        return _column(table[self.columns.id])

    def _report(self, reading: Reading, texts: pa.Array, rows: Any, bad: BadRows) -> None:
        if not len(rows):
            return
        column = self.columns.texts[-1]
        for row, location in zip(rows.tolist(), reading.locate(rows), strict=True):
            if texts[row].is_valid:
                bad.add(location, column, "blank", "is empty")
            else:
                bad.add(location, column, "empty", "has no value")


def open_corpus(data: DataSettings, settings: EmbedSettings) -> Corpus:
    """Return the corpus that the settings name; of a BEIR folder the documents.

    Raises:
        CheckFailed: it is missing or cannot be read, or it has no such columns.
    """
    source = open_source(_documents(data.path), data.read)
    head = source.head()
    columns = find_columns(head, data.columns, settings.kept_columns, f"'{source.shown}'")
    if not names_files(data.path):
        _check_no_numbers(head, columns.texts, source.shown)
    for name in columns.keep:
        if name in (ID, VECTOR):
            what = f"the column '{name}' would have the name of one that is written anyway."
            raise CheckFailed([Problem("keep", what, "Leave it out, or rename it in the data.")])
    return Corpus(source, columns, data.limit)


def _check_no_numbers(head: Head, texts: Sequence[str], shown: str) -> None:
    """Raise CheckFailed if a column of texts of a table in memory holds numbers or dates."""
    kinds = {}
    for name in texts:
        place = head.names.index(name)
        try:
            kinds[name] = pa.array([row[place] for row in head.sample]).type
        except (pa.ArrowException, TypeError, ValueError):  # values of several types are reported as bad rows
            kinds[name] = pa.null()
    problems = number_problems(pa.schema(list(kinds.items())), texts, shown)
    if problems:
        raise CheckFailed(problems)


def _documents(path: Any) -> Any:
    """Return the files of the documents, if `path` is a folder with a corpus of BEIR's layout."""
    if not isinstance(path, str) or "://" in path:
        return path
    return [str(file) for file in corpus_files(resolve(path))] or path


def _column(values: pa.ChunkedArray) -> pa.Array:
    found = values.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        return pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], values.type)
    return found


def _as_before(column: pa.Array, expected: pa.DataType, name: str) -> pa.Array:
    """Return a column of a part in the type that it had in the first part: that of several files may differ."""
    if column.type == expected:
        return column
    try:
        return column.cast(expected)
    except pa.ArrowException as error:
        what = f"the column '{name}' is of type {expected} at first and {column.type} later."
        raise CheckFailed([Problem("data.path", what, "Make it the same in all files.")]) from error
