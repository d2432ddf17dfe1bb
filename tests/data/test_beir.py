from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
def test_the_folder_beside_the_file_is_evaluated_on(make, name):
    data = csv_data(make(name=name), validation_path="auto").load()
    assert judged(data) == {("first", "T two", 2.0), ("first", "three", 0.0), ("second", "a1", 1.0)}
    assert sorted(data.items.take(data.validation.corpus)) == ["T two", "a1", "three"]
    assert len(data.train) == 3
    assert (data.facts["validation_queries"], data.facts["validation_corpus"], data.facts["leaks"]) == (2, 3, 0)
    assert "Evaluating on evaluation/ beside the data file." in data.notes
    assert any("1 of 3 validation queries" in note for note in data.notes)


def test_a_named_folder_and_none(make):
    path = make()
    assert csv_data(path, validation_path=str(path.parent / "evaluation")).load().facts["validation_queries"] == 2
    assert csv_data(path).load().validation is None


def test_the_same_text_twice_in_a_corpus_is_one_document(make):
    corpus = [*CORPUS, {"_id": "d4", "text": "a1"}]
    data = csv_data(make(corpus, qrels=QRELS + "2\td4\t3\n"), validation_path="auto").load()
    assert len(data.validation.corpus) == 3
    assert ("second", "a1", 3.0) in judged(data)
    assert ("second", "a1", 1.0) not in judged(data)


def test_leaks_are_counted_and_said(make):
    queries = [{"_id": "1", "text": "q1"}, {"_id": "2", "text": "a2"}]
    data = csv_data(make(queries=queries), validation_path="auto").load()
    assert data.facts["leaks"] == 2
    assert any("2 training pairs contain a validation query" in note for note in data.notes)


REFUSED = {
    "no json": ({"corpus": lines(CORPUS) + "{oops\n"}, "corpus.jsonl:4: is no JSON (expecting"),
    "a list": ({"queries": lines([*QUERIES, [1]])}, "queries.jsonl:4: is no JSON object: [1]"),
    "no id": ({"queries": '\n{"text": "x"}\n'}, 'queries.jsonl: has no "_id"'),
    "no id in one": ({"queries": lines([*QUERIES, {"text": "x"}])}, "queries.jsonl:4: column '_id': there is no id: x"),
    "list for text": ({"queries": lines([*QUERIES, {"_id": "9", "text": ["x"]}])}, "queries.jsonl:4: column 'text'"),
    "only empty texts": ({"corpus": '{"_id": "d1", "text": " "}\n'}, "has no judgment with a score above 0"),
    "same id": (
        {"corpus": lines([*CORPUS, {"_id": "d1", "text": "x"}])},
        "corpus.jsonl:4: column '_id' has",
    ),
    "empty corpus": ({"corpus": ""}, "corpus.jsonl' is empty"),
    "bytes": ({"corpus": b'{"_id": "1", "text": "\xe9"}\n'}, "corpus.jsonl' has the byte 0xE9, which is not utf-8"),
    "mostly unknown ids": (
        {"qrels": QRELS + "".join(f"9\td{i}\t1\n" for i in range(9))},
        "qrels/test.tsv:5: column 'query' has an id that is not in queries.jsonl: 9",
    ),
    "no number": ({"qrels": QRELS + "1\td1\tyes\n"}, "qrels/test.tsv:5: column 'grade' is no finite number: yes"),
    "nan": ({"qrels": QRELS + "1\td1\tnan\n"}, "is no finite number: nan"),
    "cells": ({"qrels": QRELS + "1 d1 1\n"}, "qrels/test.tsv:5: found 1 cell, the header has 3"),
    "columns": ({"qrels": "1\t1\n2\t1\n"}, "qrels/test.tsv: has 2 columns"),
    "nothing right": ({"qrels": "1\td1\t0\n"}, "has no judgment with a score above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_with_its_line(case, make):
    parts, expected = REFUSED[case]
    path = make(**parts)
    assert expected in told(csv_data(path, validation_path=str(path.parent / "evaluation")))


def test_a_folder_that_lacks_a_part(make):
    path = make()
    (path.parent / "evaluation/corpus.jsonl").unlink()
    answer = told(csv_data(path, validation_path=str(path.parent / "evaluation")))
    assert "has no corpus.jsonl" in answer
    # `auto` takes what is there; half an evaluation is not one.
    assert csv_data(path, validation_path="auto").load().validation is None


def test_several_judgments_of_other_names_leave_it_open(make, write):
    path = make(name="one")
    write(QRELS, "evaluation/qrels/two.tsv")
    answer = told(csv_data(path, validation_path="auto"))
    assert "'evaluation' has no qrels/test.tsv, but one.tsv, two.tsv." in answer
    named = csv_data(path, validation_path=str(path.parent / "evaluation/qrels/two.tsv")).load()
    assert named.facts["validation_queries"] == 2


def test_no_more_than_twenty_problems_are_shown(make):
    path = make(corpus=lines(CORPUS) + "{\n" * 50)
    answer = told(csv_data(path, validation_path="auto"))
    assert len(answer.splitlines()) == 21
    assert "50 of 62 rows are bad." in answer
