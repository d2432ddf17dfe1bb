"""Evaluation data in a BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`.

The layout of Thakur et al. 2021 (https://arxiv.org/abs/2104.08663).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.beir_folder import qrels_file
from finetune.data.judgments import Judgments
from finetune.errors import CheckFailed, Problem

SHOWN = 20  # problems that are shown one by one; more of the same kind help nobody


@dataclass(frozen=True)
class Beir:
    """The texts and judgments of a BEIR folder, before its texts became items."""

    name: str
    queries: pa.Array
    corpus: pa.Array
    query_index: Ints
    document_index: Ints
    grade: np.ndarray[tuple[int], np.dtype[np.float64]]
    notes: list[str] = field(default_factory=list)

    def judgments(self, query_items: Ints, corpus_items: Ints) -> Judgments:
        """Return the judgments over items; documents or queries of the same text become one.

        `query_items` and `corpus_items` are the item numbers of the rows of `queries` and `corpus`.
        """
        queries, query_place = np.unique(query_items, return_inverse=True)
        corpus, document_place = np.unique(corpus_items, return_inverse=True)
        query, document = query_place[self.query_index], document_place[self.document_index]
        # Where texts became one, the same pair may be judged twice: its best grade holds.
        best = np.lexsort([-self.grade, document, query])
        pair = query[best] * len(corpus) + document[best]
        first = best[np.unique(pair, return_index=True)[1]]
        return Judgments(self.name, queries, corpus, query[first], document[first], self.grade[first])


def read_beir(folder: Path, shown: str) -> Beir:
    """Read a BEIR folder; `shown` is its name in sentences.

    A document's text is its title and its text. Queries without a judgment are left out with a note. Raises
    `CheckFailed` with what is wrong in the files, by line.
    """
    problems = _Problems(shown)
    qrels = qrels_file(folder)
    corpus = _read_texts(folder / "corpus.jsonl", problems)
    queries = _read_texts(folder / "queries.jsonl", problems)
    judged = _read_qrels(qrels, queries, corpus, problems)
    problems.raise_any()

    # Without a right answer there is nothing to find, and every metric of the query would be undefined.
    asked = sorted({query for (query, _), grade in judged.items() if grade > 0})
    place = {query: index for index, query in enumerate(asked)}
    judged = {pair: grade for pair, grade in judged.items() if pair[0] in place}
    texts = list(queries.values())
    notes = []
    if unasked := len(queries) - len(asked):
        notes.append(f"{unasked:,} of {len(queries):,} validation queries have no right answer and are left out.")
    return Beir(
        name=shown,
        queries=pa.array([texts[query] for query in asked], pa.large_string()),
        corpus=pa.array(corpus.values(), pa.large_string()),
        query_index=np.array([place[query] for query, _ in judged], np.int64),
        document_index=np.array([document for _, document in judged], np.int64),
        grade=np.array(list(judged.values()), np.float64),
        notes=notes,
    )


class _Problems:
    """Collects what is wrong, remembering the first few of each file and how many more there are."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.found: list[Problem] = []
        self.more = 0

    def add(self, file: str, what: str, line: int | None = None, advice: str = "") -> None:
        if len(self.found) >= SHOWN:
            self.more += 1
            return
        place = f"{self.folder}/{file}" + (f":{line}" if line else "")
        self.found.append(Problem(place, what, advice))

    def raise_any(self) -> None:
        if self.more:
            self.found.append(Problem(self.folder, f"{self.more:,} more problems like these."))
        if self.found:
            raise CheckFailed(self.found)


def _lines(file: Path, problems: _Problems) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file that are not blank."""
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        problems.add(file.name, f"is not UTF-8 text (byte 0x{error.object[error.start]:02X}).")
    except OSError as error:
        problems.add(file.name, f"cannot be read: {error.strerror}.")


def _read_texts(file: Path, problems: _Problems) -> dict[str, str]:
    """Return id -> text, in the order of the file."""
    texts: dict[str, str] = {}
    before = len(problems.found)
    for number, line in _lines(file, problems):
        try:
            record: Any = json.loads(line)
        except (ValueError, RecursionError):
            problems.add(file.name, f"is no JSON: {line[:60]}", number)
            continue
        what = _fault(record, texts)
        if what:
            problems.add(file.name, what, number)
        else:
            texts[str(record["_id"])] = _text(record)
    if not texts and len(problems.found) == before:
        problems.add(file.name, "is empty.")
    return texts


def _fault(record: Any, seen: dict[str, str]) -> str | None:
    if not isinstance(record, dict):
        return 'is no JSON object like {"_id": "1", "text": "..."}.'
    for key, kinds in (("_id", (str, int)), ("text", (str,))):
        if not isinstance(record.get(key), kinds):
            return f'has no "{key}".' if key not in record else f'has a "{key}" that is no text.'
    if not isinstance(record.get("title"), str | None):
        return 'has a "title" that is no text.'
    if str(record["_id"]) in seen:
        return f"repeats the id {str(record['_id'])!r}."
    return None if _text(record).strip() else "has an empty text."


def _text(record: dict[str, Any]) -> str:
    title = record.get("title") or ""
    return f"{title} {record['text']}" if title else str(record["text"])


def _read_qrels(
    file: Path, queries: dict[str, str], corpus: dict[str, str], problems: _Problems
) -> dict[tuple[int, int], float]:
    """Return (place of the query, place of the document) -> grade."""
    query_place = {name: place for place, name in enumerate(queries)}
    document_place = {name: place for place, name in enumerate(corpus)}
    unknown: list[tuple[int, str]] = []
    judged: dict[tuple[int, int], float] = {}
    name = f"qrels/{file.name}"
    for number, line in _lines(file, problems):
        cells = line.split("\t")
        if number == 1 and cells[-1].strip().lower() == "score":
            continue
        grade = _number(cells[-1])
        if len(cells) != 3:
            problems.add(name, f"has {len(cells)} cells; expected query-id, corpus-id and score, by tabs.", number)
        elif grade is None:
            problems.add(name, f"has a score that is no number: {cells[2][:60]!r}.", number)
        elif cells[0] not in query_place or cells[1] not in document_place:
            unknown.append((number, cells[0] if cells[0] not in query_place else cells[1]))
        else:
            judged[query_place[cells[0]], document_place[cells[1]]] = grade
    # One unknown id usually means thousands: one problem for all of them.
    if unknown and queries and corpus:
        line_number, identifier = unknown[0]
        what = f"names an id that is in neither queries.jsonl nor corpus.jsonl: {identifier!r}."
        problems.add(name, what + (f" ({len(unknown):,} lines do.)" if len(unknown) > 1 else ""), line_number)
    elif not problems.found and not any(grade > 0 for grade in judged.values()):
        problems.add(name, "has no judgment with a score above 0.")
    return judged


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
