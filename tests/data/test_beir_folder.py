from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.load import load
from tests.data.conftest import csv_data, told

CORPUS = [{"_id": "d1", "text": "a1"}, {"_id": "d2", "title": "T", "text": "two"}, {"_id": "d3", "text": "three"}]
QUERIES = [{"_id": "1", "text": "first"}, {"_id": "2", "text": "second"}, {"_id": "3", "text": "nobody knows"}]
QRELS = "query-id\tcorpus-id\tscore\n1\td2\t2\n1\td3\t0\n2\td1\t1\n"


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def make(write):
    def make_folder(corpus=CORPUS, queries=QUERIES, qrels=QRELS, name="test") -> Path:
        write(corpus if isinstance(corpus, str | bytes) else lines(corpus), "evaluation/corpus.jsonl")
        write(queries if isinstance(queries, str | bytes) else lines(queries), "evaluation/queries.jsonl")
        write(qrels, f"evaluation/qrels/{name}.tsv")
        return write("question,answer\nq1,a1\nq2,a2\nq3,a3\n")

    return make_folder


def judged(data) -> set[tuple[str, str, float]]:
    judgments, take = data.validation, data.items.take
    queries, documents = (
        take(judgments.queries[judgments.query_index]),
        take(judgments.corpus[judgments.document_index]),
    )
    return set(zip(queries, documents, judgments.grade.tolist(), strict=True))


@pytest.mark.parametrize("name", ["test", "dev", "validation", "mine"])
def test_the_folder_next_to_the_file_is_evaluated_on(make, name):
    data = load(csv_data(make(name=name), validation_path="auto"))
    assert judged(data) == {("first", "T two", 2.0), ("first", "three", 0.0), ("second", "a1", 1.0)}
    assert sorted(data.items.take(data.validation.corpus)) == ["T two", "a1", "three"]
    assert len(data.train) == 3
    assert (data.facts["validation_queries"], data.facts["validation_corpus"], data.facts["leaks"]) == (2, 3, 0)
    assert "Validation data: evaluation/ next to the data file." in data.notes
    assert any("1 of 3 validation queries" in note for note in data.notes)


def test_a_named_folder_and_none(make):
    path = make()
    assert load(csv_data(path, validation_path=str(path.parent / "evaluation"))).facts["validation_queries"] == 2
    assert load(csv_data(path)).validation is None


def test_the_same_text_twice_in_a_corpus_is_one_document(make):
    corpus = [*CORPUS, {"_id": "d4", "text": "a1"}]
    data = load(csv_data(make(corpus, qrels=QRELS + "2\td4\t3\n"), validation_path="auto"))
    assert len(data.validation.corpus) == 3
    assert ("second", "a1", 3.0) in judged(data)
    assert ("second", "a1", 1.0) not in judged(data)


def test_leaks_are_counted_and_noted(make):
    queries = [{"_id": "1", "text": "q1"}, {"_id": "2", "text": "a2"}]
    data = load(csv_data(make(queries=queries), validation_path="auto"))
    assert data.facts["leaks"] == 2
    assert any("2 training pairs contain a validation query" in note for note in data.notes)


REFUSED = {
    "no json": ({"corpus": lines(CORPUS) + "{oops\n"}, "corpus.jsonl:4: is not valid JSON (expecting"),
    "a list": ({"queries": lines([*QUERIES, [1]])}, "queries.jsonl:4: is not a JSON object: [1]"),
    "no id": ({"queries": '\n{"text": "x"}\n'}, 'queries.jsonl: has no "_id"'),
    "no id in one": ({"queries": lines([*QUERIES, {"text": "x"}])}, "queries.jsonl:4: column '_id': there is no id: x"),
    "list for text": ({"queries": lines([*QUERIES, {"_id": "9", "text": ["x"]}])}, "queries.jsonl:4: column 'text'"),
    "only empty texts": ({"corpus": '{"_id": "d1", "text": " "}\n'}, "has no judgment with a score above 0"),
    "same id": (
        {"corpus": lines([*CORPUS, {"_id": "d1", "text": "x"}])},
        "corpus.jsonl:4: column '_id' has",
    ),
    "no row to read": ({"corpus": '{"_id": "\\ud800", "text": "x"}\n'}, "corpus.jsonl: has no row that can be read"),
    "empty corpus": ({"corpus": ""}, "corpus.jsonl' is empty"),
    "bytes": ({"corpus": b'{"_id": "1", "text": "\xe9"}\n'}, "corpus.jsonl' has the byte 0xE9, which is not utf-8"),
    "mostly unknown ids": (
        {"qrels": QRELS + "".join(f"9\td{i}\t1\n" for i in range(9))},
        "qrels/test.tsv:5: column 'query' has an id that is not in queries.jsonl: 9",
    ),
    "no number": ({"qrels": QRELS + "1\td1\tyes\n"}, "qrels/test.tsv:5: column 'grade' is not a finite number: yes"),
    "nan": ({"qrels": QRELS + "1\td1\tnan\n"}, "is not a finite number: nan"),
    "cells": ({"qrels": QRELS + "1 d1 1\n"}, "qrels/test.tsv:5: found 1 cell, the header has 3"),
    "columns": ({"qrels": "1\t1\n2\t1\n"}, "qrels/test.tsv: has 2 columns"),
    "nothing right": ({"qrels": "1\td1\t0\n"}, "has no judgment with a score above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_problems_name_their_line(case, make):
    parts, expected = REFUSED[case]
    path = make(**parts)
    assert expected in told(csv_data(path, validation_path=str(path.parent / "evaluation")))


def test_a_folder_that_lacks_a_part(make):
    path = make()
    (path.parent / "evaluation/corpus.jsonl").unlink()
    answer = told(csv_data(path, validation_path=str(path.parent / "evaluation")))
    assert "has no corpus.jsonl" in answer
    # `auto` takes what is there; half an evaluation is not one.
    assert load(csv_data(path, validation_path="auto")).validation is None


def test_several_judgments_of_other_names_leave_it_open(make, write):
    path = make(name="one")
    write(QRELS, "evaluation/qrels/two.tsv")
    answer = told(csv_data(path, validation_path="auto"))
    assert "'evaluation' has no qrels/test.tsv, but one.tsv, two.tsv." in answer
    named = load(csv_data(path, validation_path=str(path.parent / "evaluation/qrels/two.tsv")))
    assert named.facts["validation_queries"] == 2


def test_no_more_than_twenty_problems_are_shown(make):
    path = make(corpus=lines(CORPUS) + "{\n" * 50)
    answer = told(csv_data(path, validation_path="auto"))
    assert len(answer.splitlines()) == 21
    assert "50 of 62 rows are bad." in answer


# What published folders have, each with what is left of it.
PUBLISHED = (
    QRELS
    + "1\td9\t1\n"  # a document that is not in the corpus
    + "9\td1\t1\n"  # a query that is not there
    + "3\td8\t2\n"  # the only judgment of a query, of a document that is not there
    + "2\td4\t1\n"  # a document with no text
    + "1\td3\t-1\n"  # another grade, for the second time
    + "2\td1\t1\n"  # the same again
)
EMPTY = [{"_id": "d4", "title": "", "text": ""}, {"_id": "d5", "title": "Only a title", "text": None, "metadata": {}}]


@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_a_folder_as_published_is_read_and_what_is_left_out_is_counted(on_bad_rows, make):
    path = make([*CORPUS, *EMPTY], qrels=PUBLISHED)
    data = load(csv_data(path, validation_path="auto", on_bad_rows=on_bad_rows))
    assert judged(data) == {("first", "T two", 2.0), ("first", "three", -1.0), ("second", "a1", 1.0)}
    assert sorted(data.items.take(data.validation.corpus)) == ["Only a title", "T two", "a1", "three"]
    asked = data.items.take(data.validation.queries)
    lost = data.validation.lost_query
    assert sorted((asked[query], grade) for query, grade in zip(lost, data.validation.lost_grade, strict=True)) == [
        ("first", 1.0),
        ("nobody knows", 2.0),
        ("second", 1.0),
    ]
    name = "evaluation/ next to the data file"
    assert (
        f"{name}: left out 3 judgments of ids that are not there, "
        "1 judgment that is given again with another grade (the last one counts), 1 empty text."
    ) in data.notes
    assert (
        f"{name}: 3 right answers are not in the corpus and count as not found, as trec_eval counts them." in data.notes
    )
    assert f"{name}: 1 judgment is repeated with the same grade, which changes nothing." in data.notes
    assert data.facts["right_answers_not_in_the_corpus"] == 3
    found = [json.loads(line) for line in data.problems.read_text().splitlines()]
    assert sorted((Path(row["file"]).name, row["line"], row["kind"]) for row in found) == [
        ("corpus.jsonl", 4, "blank"),
        ("test.tsv", 3, "regraded"),
        ("test.tsv", 5, "dangling"),
        ("test.tsv", 6, "dangling"),
        ("test.tsv", 7, "dangling"),
    ]


def test_bad_rows_of_the_folder_are_left_out_if_configured(make):
    path = make(lines(CORPUS) + "{oops\n", qrels=QRELS + "1\td1\tyes\n1 d1 1\n1\td9\t1\n")
    refused = told(csv_data(path, validation_path="auto"))
    assert "3 of 16 rows are bad." in refused
    assert "d9" not in refused  # which alone would be no reason to stop
    data = load(csv_data(path, validation_path="auto", on_bad_rows="skip"))
    assert len(data.validation.corpus) == 3
    assert any("1 judgment of an id that is not there, 3 other bad rows." in note for note in data.notes)
    assert len(data.problems.read_text().splitlines()) == 4


def test_mostly_unknown_ids_are_left_out_only_if_configured(make):
    path = make(qrels=QRELS + "".join(f"9\td{i}\t1\n" for i in range(9)))
    assert "are these files of one set?" in told(csv_data(path, validation_path="auto"))
    assert load(csv_data(path, validation_path="auto", on_bad_rows="skip")).facts["validation_queries"] == 2


def gz(content: str) -> bytes:
    return gzip.compress(content.encode())


def parquet(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    names = dict.fromkeys(name for record in records for name in record)
    pq.write_table(pa.Table.from_pylist([names | record for record in records]), sink)
    return sink.getvalue()


TREC = "1 0 d2 2\n1 0 d3 0\n2 0 d1 1\n"
JUDGED = [
    dict(zip(("query-id", "corpus-id", "score"), line.split("\t"), strict=True)) for line in QRELS.split("\n")[1:-1]
]
SHAPES: dict[str, dict[str, str | bytes]] = {
    "windows": {"corpus.jsonl": lines(CORPUS).replace("\n", "\r\n"), "qrels/test.tsv": QRELS.replace("\n", "\r\n")},
    "byte-order marks": {"corpus.jsonl": "\ufeff" + lines(CORPUS), "qrels/test.tsv": "\ufeff" + QRELS},
    "packed": {
        "corpus.jsonl.gz": gz(lines(CORPUS)),
        "queries.jsonl.gz": gz(lines(QUERIES)),
        "qrels/test.tsv.gz": gz(QRELS),
    },
    "in parts": {"corpus-1.jsonl": lines(CORPUS[:1]), "corpus-2.jsonl": lines(CORPUS[1:])},
    "parts in a folder": {"corpus/00.jsonl": lines(CORPUS[:2]), "corpus/01.jsonl.gz": gz(lines(CORPUS[2:]))},
    "queries of all splits": {
        "queries/dev.jsonl": lines([{"_id": "77", "text": "x"}]),
        "queries/test.jsonl": lines(QUERIES),
    },
    "parquet": {
        "corpus.parquet": parquet(CORPUS),
        "queries/queries-00000-of-00001.parquet": parquet(QUERIES),
        "qrels/test-00000-of-00001.parquet": parquet([row | {"score": float(row["score"])} for row in JUDGED]),
    },
    "no header": {"qrels/test.tsv": QRELS.partition("\n")[2]},
    "another header": {"qrels/test.tsv": "corpus-id\tquery-id\tscore\nd2\t1\t2\nd3\t1\t0\nd1\t2\t1\n"},
    "TREC": {"qrels/test.txt": TREC},
    "TREC, by tabs": {"qrels/test.qrels": TREC.replace(" ", "\t")},
    "beside the others": {"qrels.txt": TREC},
    "judgments as JSON": {"qrels/test.jsonl": lines(JUDGED)},
    "ids as numbers": {"queries.jsonl": lines([one | {"_id": int(one["_id"])} for one in QUERIES])},
    "ids of both kinds": {"queries.jsonl": lines([QUERIES[0] | {"_id": 1}, *QUERIES[1:], {"_id": "x1", "text": "y"}])},
    "metadata": {"queries.jsonl": lines([one | {"metadata": {"url": "x", "n": [1]}} for one in QUERIES])},
    "valid": {"qrels/valid.tsv": QRELS, "qrels/train.tsv": "1\td1\t1\n"},
    "val": {"qrels/val.tsv": QRELS, "qrels/training.tsv": "1\td1\t1\n"},
    "decimal commas": {"qrels/test.tsv": "1\td2\t2,0\n1\td3\t0,0\n2\td1\t1,0\n"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_folders_in_other_shapes_are_read_alike(shape, write):
    files = SHAPES[shape]
    for part, name, content in (
        ("corpus", "corpus.jsonl", lines(CORPUS)),
        ("queries", "queries.jsonl", lines(QUERIES)),
        ("qrels", "qrels/test.tsv", QRELS),
    ):
        if not any(file.startswith(part) for file in files):
            write(content, f"beir/{name}")
    for file, content in files.items():
        write(content, f"beir/{file}")
    path = write("question,answer\nq1,a1\nq2,a2\nq3,a3\n")
    data = load(csv_data(path, validation_path=str(path.parent / "beir")))
    assert judged(data) == {("first", "T two", 2.0), ("first", "three", 0.0), ("second", "a1", 1.0)}
    assert data.problems is None


def test_a_corpus_of_one_document_with_metadata(make):
    data = csv_data(make([CORPUS[0] | {"metadata": {"url": "x"}}], QUERIES[1:2], "2\td1\t1\n"), validation_path="auto")
    assert judged(load(data)) == {("second", "a1", 1.0)}


def test_a_run_reads_again_when_a_part_of_the_folder_changes(make, write):
    settings = csv_data(make(), validation_path="auto", cache=True)
    assert len(load(settings).validation.corpus) == 3
    before = load(settings).fingerprint
    write(lines([*CORPUS, {"_id": "d7", "text": "seven"}]), "evaluation/corpus.jsonl")
    assert len(load(settings).validation.corpus) == 4
    assert load(settings).fingerprint != before


def test_fields_that_are_not_used_are_named_once_and_empty_ones_are_not(make):
    corpus = [row | {"url": "http://a", "metadata": {}} for row in CORPUS]
    queries = [row | {"metadata": {"year": 1}} for row in QUERIES]
    folder = str(make(corpus, queries, name="train").parent / "evaluation")
    expected = [
        f"{folder}/corpus.jsonl: Not used: the column 'url'.",
        f"{folder}/queries.jsonl: Not used: the column 'metadata'.",
    ]
    for validation in (None, folder):
        notes = load(csv_data(folder, validation_path=validation)).notes
        assert [note for note in notes if "Not used" in note] == expected


def test_a_missing_folder_suggests_the_beir_folders_next_to_it(make):
    path = make()
    assert "In this folder there is: evaluation." in told(csv_data(path, validation_path="nope"))
    assert "In this folder there is: evaluation, pairs.csv." in told(csv_data("nope"))


def test_a_missing_folder_next_to_no_beir_folder_says_what_is_wanted(write):
    answer = told(csv_data(write("question,answer\nq1,a1\nq2,a2\n"), validation_path="nope"))
    assert "there is no folder 'nope'. It must be a BEIR folder" in answer
