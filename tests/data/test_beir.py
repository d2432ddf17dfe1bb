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
    "no json": ({"corpus": lines(CORPUS) + "{oops\n"}, "corpus.jsonl:4: is no JSON: {oops"),
    "a list": ({"queries": "[1]\n"}, "queries.jsonl:1: is no JSON object"),
    "no id": ({"queries": '\n{"text": "x"}\n'}, 'queries.jsonl:2: has no "_id"'),
    "number for text": ({"queries": '{"_id": "1", "text": 3}\n'}, 'has a "text" that is no text'),
    "empty text": ({"corpus": '{"_id": "1", "text": " "}\n'}, "corpus.jsonl:1: has an empty text"),
    "same id": ({"corpus": lines([*CORPUS, CORPUS[0]])}, "corpus.jsonl:4: repeats the id 'd1'"),
    "empty corpus": ({"corpus": ""}, "corpus.jsonl: is empty"),
    "bytes": ({"corpus": b'{"_id": "1", "text": "\xe9"}\n'}, "corpus.jsonl: is not UTF-8 text (byte 0xE9)"),
    "unknown ids": ({"qrels": QRELS + "9\td1\t1\n1\td9\t1\n"}, "qrels/test.tsv:5: names an id that is in neither"),
    "unknown ids counted": ({"qrels": QRELS + "9\td1\t1\n1\td9\t1\n"}, "'9'. (2 lines do.)"),
    "no number": ({"qrels": QRELS + "1\td1\tyes\n"}, "qrels/test.tsv:5: has a score that is no number: 'yes'"),
    "nan": ({"qrels": QRELS + "1\td1\tnan\n"}, "is no number: 'nan'"),
    "cells": ({"qrels": QRELS + "1 d1 1\n"}, "qrels/test.tsv:5: has 1 cells"),
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
    assert "holds one.tsv, two.tsv" in told(csv_data(path, validation_path="auto"))


def test_no_more_than_twenty_problems_are_shown(make):
    path = make(corpus="{\n" * 50)
    answer = told(csv_data(path, validation_path="auto"))
    assert len(answer.splitlines()) == 21
    assert "30 more problems" in answer
