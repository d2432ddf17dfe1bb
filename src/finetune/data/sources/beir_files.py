"""The files of a BEIR folder as columns: texts by their ids, and judgments; what is wrong with a row is reported.

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
from finetune.data.source import ReadOptions
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
    """The texts of a corpus or of queries: `ids (T,)`, `texts (T,)`; `blank (T,)` are those with nothing in them.

    Of an id that is repeated the first row counts; the others are in `again (T,)`. `place` is where rows are.
    """

    ids: pa.Array
    texts: pa.Array
    blank: Bools
    again: Bools
    locate: Locate
    rows_read: int


@dataclass(frozen=True)
class BeirJudgments:
    """Judgments: `query (J,)` and `document (J,)` are places among the texts, -1 for an id that is not there.

    `winner (J,)` is the judgment of each pair that counts; `regraded (J,)` are those that a later one contradicts.
    """

    query: Ints
    document: Ints
    grade: npt.NDArray[np.float64]
    winner: Bools
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
        """Look at the first rows of each file; raises `CheckFailed` if one lacks a column."""
        for source in (*self.corpus, *self.queries):
            _columns_of_texts(source)
        judgment_columns(self.qrels)

    def unused_notes(self) -> Iterator[str]:
        """Yield a sentence on the fields of the corpus, and of the queries, that are not used; not on empty ones."""
        for sources in (self.corpus, self.queries):
            heads = [source.head() for source in sources]
            fields = [name for head in heads for i, name in enumerate(head.names) if any(row[i] for row in head.sample)]
            if unused := [name for name in dict.fromkeys(fields) if name not in (ID, "text", TITLE)]:
                yield f"{sources[0].shown}: {unused_note(unused)}"

    def read(self, bad: BadRows) -> tuple[BeirTexts, BeirTexts, BeirJudgments]:
        """Return queries, corpus and judgments; rows that cannot be used are added to `bad`."""
        self.check()
        queries, corpus = (_read_texts(part, bad) for part in (self.queries, self.corpus))
        return queries, corpus, _read_judgments(self.qrels, queries, corpus, bad)


def _open_texts(file: DataFile) -> FileSource:
    from finetune.data.sources.columnar import ParquetFile
    from finetune.data.sources.jsonl import JsonFile

    options = ReadOptions()
    kind = format_of(file, options)
    reader: FileReader = ParquetFile(file) if kind == "parquet" else JsonFile(file, options, ids=(ID,))
    return FileSource([reader], file.shown, options, kind)


def _open_judgments(file: DataFile) -> FileSource:
    from finetune.data.sources.columnar import ParquetFile
    from finetune.data.sources.jsonl import JsonFile

    kind = format_of(file, ReadOptions())
    if kind in ("parquet", "jsonl"):
        reader: FileReader = ParquetFile(file) if kind == "parquet" else JsonFile(file, ReadOptions())
        return FileSource([reader], file.shown, ReadOptions(), kind)
    first = next((line for line in file.start().decode("utf-8-sig", "replace").splitlines() if line.strip()), "")
    delimiter = next((mark for mark in "\t, " if mark in first.strip()), "\t")
    named = not parses_as_number(first.rstrip("\r\n").split(delimiter)[-1])
    options = ReadOptions(format="csv", header=named, delimiter=delimiter)
    return FileSource([CsvFile(file, options)], file.shown, options, kind)


def _columns_of_texts(source: FileSource) -> list[str]:
    names = source.head().names
    for name in (ID, "text"):
        if name not in names:
            fail(source.shown, f'has no "{name}".', 'Every line must be like {"_id": "1", "text": "..."}.')
    return [ID, "text", *([TITLE] if TITLE in names else [])]


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
    """Return the texts of all files, each document's title in front of its text."""
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
    place = partial(locate_rows, readings)
    _report_rows(np.flatnonzero(ids.is_null()), texts, place, bad, ID, "id", "there is no id")
    again = _again(ids, texts, place, bad)
    blank = pc.equal(pc.utf8_trim_whitespace(texts), "").to_numpy(zero_copy_only=False)
    return BeirTexts(ids, texts, blank, again, place, sum(reading.rows_read for reading in readings))


def _again(ids: pa.Array, texts: pa.Array, place: Locate, bad: BadRows) -> Bools:
    """Return the rows whose id an earlier row has, (T,); those with another text are reported."""
    codes = ids.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    again: Bools = (first[which] != np.arange(len(codes))) & (codes >= 0)
    rows = np.flatnonzero(again)
    other = pc.not_equal(texts.take(pa.array(rows)), texts.take(pa.array(first[which][rows])))
    rows = rows[other.to_numpy(zero_copy_only=False).astype(bool)]
    _report_rows(rows, ids, place, bad, ID, "twice", "has an id that occurs twice")
    return again


def _read_judgments(source: FileSource, queries: BeirTexts, corpus: BeirTexts, bad: BadRows) -> BeirJudgments:
    names = judgment_columns(source)
    reading = source.read(names, bad)
    query_id, document_id = (reading.table[name].cast(pa.large_string()).combine_chunks() for name in names[:2])
    notation = source.head().notations.get(names[2], POINT)
    grade = to_numbers(reading.table[names[2]], notation)
    query, document = (
        pc.fill_null(pc.index_in(ids, value_set=known.ids), -1).to_numpy().astype(np.int64)
        for ids, known in ((query_id, queries), (document_id, corpus))
    )
    is_valid = np.isfinite(grade)
    shown = reading.table[names[2]]
    _report_rows(np.flatnonzero(~is_valid), shown, reading.locate, bad, "grade", "grade", "is not a finite number")
    kind = _kind_of_unknown(is_valid, query, document)
    for found, ids, column, file, also in (
        (query, query_id, "query", "queries", is_valid),
        (document, document_id, "document", "corpus", is_valid & (query >= 0)),
    ):
        what = f"has an id that is not in {file}.jsonl"
        _report_rows(np.flatnonzero((found < 0) & also), ids, reading.locate, bad, column, kind, what)
    winner, regraded = _winners(query_id, document_id, grade, is_valid)
    _report_regraded(np.flatnonzero(regraded), grade, query_id, document_id, reading.locate, bad)
    query = np.where(is_valid, query, -1)
    return BeirJudgments(query, document, grade, winner, regraded, reading.locate, reading.rows_read)


def _kind_of_unknown(is_valid: Bools, query: Ints, document: Ints) -> str:
    """Return what judgments of unknown ids are: a few are usual in published data, most of them are a mistake."""
    unknown = is_valid & ((query < 0) | (document < 0))
    return "unknown" if 2 * unknown.sum() > is_valid.sum() else "dangling"


def _winners(query_id: pa.Array, document_id: pa.Array, grade: Any, is_valid: Bools) -> tuple[Bools, Bools]:
    """Return the last judgment of each pair, (J,), and those before it with another grade, (J,)."""
    codes = [
        ids.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        for ids in (query_id, document_id)
    ]
    rows = np.flatnonzero(is_valid)
    key = codes[0][rows] * (codes[1].max(initial=0) + 1) + codes[1][rows]
    _, last, which = np.unique(key[::-1], return_index=True, return_inverse=True)
    last = rows[len(rows) - 1 - last][which.reshape(-1)[::-1]]  # of the pair of each row
    winner, regraded = np.zeros(len(grade), bool), np.zeros(len(grade), bool)
    winner[last] = True
    regraded[rows] = grade[rows] != grade[last]
    return winner, regraded


def _report_regraded(
    rows: Ints, grade: Any, query_id: pa.Array, document_id: pa.Array, place: Locate, bad: BadRows
) -> None:
    for at, row in zip(place(rows) if len(rows) else [], rows.tolist(), strict=True):
        text = f"{query_id[row]} {document_id[row]} {grade[row]:g}"
        bad.add(at, "grade", "regraded", "is given again with another grade, and the last one counts", text)


def _report_rows(rows: Ints, texts: Any, place: Locate, bad: BadRows, column: str, kind: str, what: str) -> None:
    """Note rows of a reading as bad, each with its text."""
    if not len(rows):
        return
    for at, text in zip(place(rows), texts.take(pa.array(rows)).to_pylist(), strict=True):
        bad.add(at, column, kind, what, "" if text is None else cut(str(text)))


def report_blank(texts: BeirTexts, rows: Ints, bad: BadRows, what: str) -> None:
    """Note these rows as texts with nothing in them."""
    _report_rows(rows, texts.ids, texts.locate, bad, "text", "blank", what)
