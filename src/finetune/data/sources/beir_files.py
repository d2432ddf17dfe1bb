"""The files of a BEIR folder as columns: texts by their ids, and judgments. Invalid rows are reported.

T texts, J judgments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints
from finetune.data.bad_rows import BadRows, RowLocation, cut
from finetune.data.beir_folder import BeirFolder
from finetune.data.schema.column_spec import normalized_name
from finetune.data.schema.columns import Bools, to_numbers
from finetune.data.schema.number_formats import POINT
from finetune.data.schema.questions import unused_note
from finetune.data.source import Head, ReadOptions
from finetune.data.sources.csv_file import CsvFile
from finetune.data.sources.errors import fail
from finetune.data.sources.file_source import FileReader, FileSource, locate_rows
from finetune.data.sources.files import DataFile, find_file
from finetune.data.sources.formats import format_of
from finetune.data.sources.header import parses_as_number
from finetune.data.sources.passage_columns import join_titles

ID, TITLE = "_id", "title"
QUERIES = {"query_id", "qid", "query", "queryid", "topic", "topic_id"}
DOCUMENTS = {"corpus_id", "doc_id", "docid", "docno", "document_id", "document", "doc", "did", "pid", "passage_id"}
GRADES = {"score", "grade", "relevance", "rel", "label", "judgment"}
Locate = Callable[[Ints], list[RowLocation]]


@dataclass(frozen=True)
class BeirTexts:
    """The texts of a corpus or of queries: `ids (T,)`, `texts (T,)`; `blank (T,)` are texts without content.

    Of a repeated id the first row counts; the others are in `duplicate (T,)`. `locate` returns the lines of rows.
    """

    ids: pa.Array
    texts: pa.Array
    blank: Bools
    duplicate: Bools
    locate: Locate
    rows_read: int


@dataclass(frozen=True)
class BeirJudgments:
    """Judgments: `query (J,)` and `document (J,)` are indices of texts, -1 for an unknown id.

    `counts (J,)` is the judgment of each pair that counts; `regraded (J,)` are those that a later one contradicts.
    """

    query: Ints
    document: Ints
    grade: npt.NDArray[np.float64]
    counts: Bools
    regraded: Bools
    locate: Locate
    rows_read: int


class BeirFiles:
    """The three parts of a folder, opened."""

    def __init__(self, folder: BeirFolder, key: str) -> None:
        def opened(files: Sequence[Path]) -> list[FileSource]:
            return [_open_texts(find_file(file, folder.shown_file(file), key)) for file in files]

        self.corpus, self.queries = opened(folder.corpus), opened(folder.queries)
        self.qrels = _open_judgments(find_file(folder.qrels, folder.shown_file(folder.qrels), key))

    def sources(self) -> list[FileSource]:
        """Return the source of each file."""
        return [*self.corpus, *self.queries, self.qrels]

    def check(self) -> None:
        """Read the first rows of each file; raises `CheckFailed` if one lacks a column."""
        for source in (*self.corpus, *self.queries):
            _columns_of_texts(source)
        judgment_columns(self.qrels)

    def unused_notes(self) -> Iterator[str]:
        """Yield a sentence on the unused fields of the corpus, and of the queries, that are not empty."""
        for sources in (self.corpus, self.queries):
            fields = [name for source in sources for name in _filled_columns(source.head())]
            unused = [name for name in dict.fromkeys(fields) if name not in (ID, "text", TITLE)]
            if unused:
                yield f"{sources[0].shown}: {unused_note(unused)}"

    def read(self, bad: BadRows) -> tuple[BeirTexts, BeirTexts, BeirJudgments]:
        """Return queries, corpus and judgments; unusable rows are added to `bad`."""
        self.check()
        queries = _read_texts(self.queries, bad)
        corpus = _read_texts(self.corpus, bad)
        return queries, corpus, _read_judgments(self.qrels, queries, corpus, bad)


def _filled_columns(head: Head) -> list[str]:
    """Return the columns that have a value in any of the first rows."""
    return [name for index, name in enumerate(head.names) if any(row[index] for row in head.sample)]


def _reader(file: DataFile, kind: str, ids: Sequence[str] = ()) -> FileReader:
    """Return the reader of a Parquet file, or of a JSON file with these keys as ids."""
    from finetune.data.sources.columnar import ParquetFile
    from finetune.data.sources.jsonl import JsonFile

    if kind == "parquet":
        return ParquetFile(file)
    return JsonFile(file, ReadOptions(), ids)


def _open_texts(file: DataFile) -> FileSource:
    options = ReadOptions()
    kind = format_of(file, options)
    return FileSource([_reader(file, kind, ids=(ID,))], file.shown, options, kind)


def _open_judgments(file: DataFile) -> FileSource:
    kind = format_of(file, ReadOptions())
    if kind in ("parquet", "jsonl"):
        return FileSource([_reader(file, kind)], file.shown, ReadOptions(), kind)
    lines = file.start().decode("utf-8-sig", "replace").splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = next((mark for mark in "\t, " if mark in first.strip()), "\t")
    last_cell = first.rstrip("\r\n").split(delimiter)[-1]
    named = not parses_as_number(last_cell)
    options = ReadOptions(format="csv", header=named, delimiter=delimiter)
    return FileSource([CsvFile(file, options)], file.shown, options, kind)


def _columns_of_texts(source: FileSource) -> list[str]:
    names = source.head().names
    for name in (ID, "text"):
        if name not in names:
            fail(source.shown, f'has no "{name}".', 'Every line must be like {"_id": "1", "text": "..."}.')
    if TITLE in names:
        return [ID, "text", TITLE]
    return [ID, "text"]


def judgment_columns(source: FileSource) -> list[str]:
    """Return the columns of query, document and grade: by name, else the three of BEIR or the four of TREC."""
    names = source.head().names
    by_role = [[name for name in names if normalized_name(name) in known] for known in (QUERIES, DOCUMENTS, GRADES)]
    if all(len(found) == 1 for found in by_role):
        return [found[0] for found in by_role]
    if len(names) == 3:
        return list(names)
    if len(names) != 4:
        what = f"has {len(names)} columns."
        fail(source.shown, what, "It must have three, by tabs: query-id, corpus-id and score (or the four of TREC).")
    return [names[0], names[2], names[3]]  # the second is TREC's iteration, which is not used


def _read_texts(sources: Sequence[FileSource], bad: BadRows) -> BeirTexts:
    """Return the texts of all files, with the title in front of each document's text."""
    parts = []
    readings = []
    for source in sources:
        reading = source.read(_columns_of_texts(source), bad)
        readings.append(reading)
        text = reading.table["text"].cast(pa.large_string())
        if TITLE in reading.table.column_names:
            text = join_titles(reading.table[TITLE], text)
        parts.append(pa.table({ID: reading.table[ID].cast(pa.large_string()), "text": pc.fill_null(text, "")}))
    table = pa.concat_tables(parts)
    if not len(table):
        fail(sources[0].shown, "has no row that can be read.", 'Every line must be like {"_id": "1", "text": "..."}.')
    ids, texts = (table[name].combine_chunks() for name in (ID, "text"))
    locate = partial(locate_rows, readings)
    _report_rows(np.flatnonzero(ids.is_null()), texts, locate, bad, ID, "id", "there is no id")
    duplicate = _duplicates(ids, texts, locate, bad)
    blank = pc.equal(pc.utf8_trim_whitespace(texts), "").to_numpy(zero_copy_only=False)
    return BeirTexts(ids, texts, blank, duplicate, locate, sum(reading.rows_read for reading in readings))


def _duplicates(ids: pa.Array, texts: pa.Array, locate: Locate, bad: BadRows) -> Bools:
    """Return the rows whose id an earlier row has, (T,); those with another text are reported."""
    codes = ids.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    duplicate: Bools = (first[which] != np.arange(len(codes))) & (codes >= 0)
    rows = np.flatnonzero(duplicate)
    other = pc.not_equal(texts.take(pa.array(rows)), texts.take(pa.array(first[which][rows])))
    rows = rows[other.to_numpy(zero_copy_only=False).astype(bool)]
    _report_rows(rows, ids, locate, bad, ID, "twice", "has an id that occurs twice")
    return duplicate


def _read_judgments(source: FileSource, queries: BeirTexts, corpus: BeirTexts, bad: BadRows) -> BeirJudgments:
    names = judgment_columns(source)
    reading = source.read(names, bad)
    query_id = reading.table[names[0]].cast(pa.large_string()).combine_chunks()
    document_id = reading.table[names[1]].cast(pa.large_string()).combine_chunks()
    notation = source.head().notations.get(names[2], POINT)
    grade = to_numbers(reading.table[names[2]], notation)
    query, document = _index_in(query_id, queries.ids), _index_in(document_id, corpus.ids)
    is_valid = np.isfinite(grade)
    shown = reading.table[names[2]]
    _report_rows(np.flatnonzero(~is_valid), shown, reading.locate, bad, "grade", "grade", "is not a finite number")
    kind = _kind_of_unknown(is_valid, query, document)
    unknown_query = is_valid & (query < 0)
    unknown_document = is_valid & (query >= 0) & (document < 0)
    for unknown, ids, column, file in (
        (unknown_query, query_id, "query", "queries"),
        (unknown_document, document_id, "document", "corpus"),
    ):
        what = f"has an id that is not in {file}.jsonl"
        _report_rows(np.flatnonzero(unknown), ids, reading.locate, bad, column, kind, what)
    counts, regraded = _last_judgments(query_id, document_id, grade, is_valid)
    _report_regraded(np.flatnonzero(regraded), grade, query_id, document_id, reading.locate, bad)
    query = np.where(is_valid, query, -1)
    return BeirJudgments(query, document, grade, counts, regraded, reading.locate, reading.rows_read)


def _index_in(ids: pa.Array, known: pa.Array) -> Ints:
    """Return the index of each id among the known ones, (J,), -1 for an unknown id."""
    indices: Ints = pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy().astype(np.int64)
    return indices


def _kind_of_unknown(is_valid: Bools, query: Ints, document: Ints) -> str:
    """Return the kind of bad row of unknown ids: a few are usual in published data, a majority is a mistake."""
    unknown = is_valid & ((query < 0) | (document < 0))
    if 2 * unknown.sum() > is_valid.sum():
        return "unknown"
    return "dangling"


def _last_judgments(query_id: pa.Array, document_id: pa.Array, grade: Any, is_valid: Bools) -> tuple[Bools, Bools]:
    """Return the last judgment of each pair, (J,), and those before it with another grade, (J,)."""
    codes = [
        ids.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        for ids in (query_id, document_id)
    ]
    rows = np.flatnonzero(is_valid)
    key = codes[0][rows] * (codes[1].max(initial=0) + 1) + codes[1][rows]
    _, last, which = np.unique(key[::-1], return_index=True, return_inverse=True)
    last = rows[len(rows) - 1 - last][which.reshape(-1)[::-1]]  # of the pair of each row
    counts, regraded = np.zeros(len(grade), bool), np.zeros(len(grade), bool)
    counts[last] = True
    regraded[rows] = grade[rows] != grade[last]
    return counts, regraded


def _report_regraded(
    rows: Ints, grade: Any, query_id: pa.Array, document_id: pa.Array, locate: Locate, bad: BadRows
) -> None:
    if not len(rows):
        return
    for location, row in zip(locate(rows), rows.tolist(), strict=True):
        text = f"{query_id[row]} {document_id[row]} {grade[row]:g}"
        bad.add(location, "grade", "regraded", "is given again with another grade, and the last one counts", text)


def _report_rows(rows: Ints, texts: Any, locate: Locate, bad: BadRows, column: str, kind: str, what: str) -> None:
    """Add rows of a reading to `bad`, each with its text."""
    if not len(rows):
        return
    for location, text in zip(locate(rows), texts.take(pa.array(rows)).to_pylist(), strict=True):
        bad.add(location, column, kind, what, "" if text is None else cut(str(text)))


def report_blank(texts: BeirTexts, rows: Ints, bad: BadRows, what: str) -> None:
    """Add these rows to `bad` as texts without content."""
    _report_rows(rows, texts.ids, texts.locate, bad, "text", "blank", what)
