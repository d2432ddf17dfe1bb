"""A BEIR folder as a source: the rows `query, document, grade` that its judgments make with its texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.bad_rows import BadRows
from finetune.data.beir_folder import missing_parts
from finetune.data.sources.csv_file import CsvFile
from finetune.data.sources.file_source import FileSource
from finetune.data.sources.files import look_at
from finetune.data.sources.refusing import refuse
from finetune.data.sources.source import Head, Reading, ReadOptions

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints

NAMES = ["query", "document", "grade"]
_WANTED = "It must be a BEIR folder: corpus.jsonl, queries.jsonl, qrels/train.tsv."


def open_beir(path: Path, shown: str, options: ReadOptions, key: str) -> BeirSource:
    """Return the source of a BEIR folder, or of one of its files of judgments: `folder/qrels/dev.tsv`.

    Raises:
        CheckFailed: a part of it is missing, or it is open which judgments are meant.
    """
    folder, qrels = path, None
    if path.is_file() and path.parent.name == "qrels":
        folder, qrels = path.parent.parent, path
        shown = str(Path(shown).parent.parent)
    if not folder.is_dir():
        if folder.exists():
            refuse(key, f"'{shown}' is a file.", _WANTED)
        look_at(folder, shown, key)
    if parts := missing_parts(folder):
        refuse(key, f"'{shown}' has no {' and no '.join(parts)}.", _WANTED)
    qrels = qrels or _to_train_on(folder, shown, key)
    return BeirSource(folder, shown, qrels, options, key)


def _to_train_on(folder: Path, shown: str, key: str) -> Path:
    if (train := folder / "qrels" / "train.tsv").is_file():
        return train
    files = sorted((folder / "qrels").glob("*.tsv"))
    if len(files) > 1:
        what = f"'{shown}' has no qrels/train.tsv, but {', '.join(file.name for file in files)}."
        refuse(key, what, f"Name the judgments to train on, as in {key}={shown}/qrels/{files[0].name}.")
    return files[0]


class BeirSource:
    """The judgments of a BEIR folder with their texts; a document's text is its title and its text."""

    def __init__(self, folder: Path, shown: str, qrels: Path, options: ReadOptions, key: str) -> None:
        from finetune.data.sources.jsonl import JsonFile

        self.shown = shown
        self.base = folder
        lines = ReadOptions(format="jsonl", max_cell_characters=options.max_cell_characters)

        def texts(name: str) -> FileSource:
            file = look_at(folder / name, f"{shown}/{name}", key)
            return FileSource([JsonFile(file, lines)], file.shown, lines, "jsonl")

        self._corpus, self._queries = texts("corpus.jsonl"), texts("queries.jsonl")
        file = look_at(qrels, f"{shown}/qrels/{qrels.name}", key)
        table = ReadOptions(format="csv", header=_has_header(qrels), delimiter="\t")
        self._qrels = FileSource([CsvFile(file, table)], file.shown, table, "csv")

    def head(self) -> Head:
        """Return its columns; the sample is of the judgments alone, for the texts they name may stand far behind."""
        for source in (self._corpus, self._queries):
            for name in ("_id", "text"):
                if name not in source.head().names:
                    refuse(source.shown, f'has no "{name}".', 'Every line must be like {"_id": "1", "text": "..."}.')
        head = self._qrels.head()
        if len(head.names) != 3:
            what = f"has {len(head.names)} columns."
            refuse(self._qrels.shown, what, "It must have three, by tabs: query-id, corpus-id and score.")
        return Head(NAMES, [(query, document, _number(grade)) for query, document, grade in head.sample])

    def fingerprint(self) -> str:
        """Return a digest of its three files."""
        import hashlib

        prints = [source.fingerprint() for source in (self._corpus, self._queries, self._qrels)]
        return hashlib.sha256("".join(prints).encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all judgments; those of an unknown query or document are bad rows."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        self.head()
        judged = self._qrels.read(self._qrels.head().names, bad)
        query_id, document_id, grade = judged.table.columns
        queries, documents = _texts(self._queries, bad, with_title=False), _texts(self._corpus, bad, with_title=True)
        query, document = (
            pc.index_in(ids.combine_chunks(), value_set=known[0])
            for ids, known in ((query_id, queries), (document_id, documents))
        )
        self._tell_unknown(judged, bad, query_id, query, "query", "queries.jsonl")
        self._tell_unknown(judged, bad, document_id, document, "document", "corpus.jsonl", only=query.is_valid())
        good = np.flatnonzero(pc.and_(query.is_valid(), document.is_valid()).to_numpy(zero_copy_only=False))
        columns = {
            "query": queries[1].take(query.take(good)),
            "document": documents[1].take(document.take(good)),
            # What is no number stays text: whoever takes it for a grade says so.
            "grade": _as_numbers(grade.take(pa.array(good))),
        }
        table = pa.table({name: columns[name] for name in names})
        return Reading(table, lambda numbers: judged.place(good[numbers]), judged.rows_read)

    def _tell_unknown(
        self, judged: Reading, bad: BadRows, ids: Any, found: Any, column: str, file: str, only: Any = None
    ) -> None:
        import numpy as np

        unknown = found.is_null().to_numpy(zero_copy_only=False)
        if only is not None:
            unknown &= only.to_numpy(zero_copy_only=False)
        _tell(judged, bad, np.flatnonzero(unknown), ids, column, "unknown", f"has an id that is not in {file}")


def _texts(source: FileSource, bad: BadRows, with_title: bool) -> tuple[pa.Array, pa.Array]:
    """Return the ids and the texts of one of the two files; an id that comes twice is a bad row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    has_title = with_title and "title" in source.head().names
    reading = source.read(["_id", "text", *(["title"] if has_title else [])], bad)
    table = reading.table
    ids, text = table["_id"].cast(pa.large_string()), table["text"].cast(pa.large_string())
    if has_title:
        title = pc.fill_null(table["title"].cast(pa.large_string()), "")
        text = pc.if_else(
            pc.equal(title, ""), text, pc.binary_join_element_wise(title, text, pa.scalar(" ", title.type))
        )
    ids = ids.combine_chunks()
    _tell_twice(ids, reading, bad)
    return ids, text.combine_chunks()


def _tell_twice(ids: Any, reading: Reading, bad: BadRows) -> None:
    import numpy as np

    # An id that is not there is a bad row already.
    codes = ids.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    again = np.delete(np.arange(len(codes)), np.unique(codes, return_index=True)[1])
    _tell(reading, bad, again[codes[again] >= 0], ids, "_id", "twice", "has an id that stands there twice")


def _tell(reading: Reading, bad: BadRows, rows: Ints, ids: Any, column: str, kind: str, what: str) -> None:
    """Note rows of a reading as bad, each with its id."""
    if not len(rows):
        return
    for place, text in zip(reading.place(rows), ids.take(rows).to_pylist(), strict=True):
        bad.add(place, column, kind, what, text)


def _as_numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        return texts.cast(pa.float64())
    except pa.ArrowException:
        return texts


def _has_header(qrels: Path) -> bool:
    with qrels.open(encoding="utf-8-sig", errors="replace") as stream:
        return stream.readline().rstrip("\r\n").rpartition("\t")[2].strip().lower() == "score"


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
