"""A BEIR folder as data to train on. Evaluation on it is tested with the data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.data.load import load
from finetune.data.open_sources import check_head
from tests.data.conftest import csv_data
from tests.data.sources.conftest import error_message, head_of, read, rows_of, tuples

CORPUS = [
    {"_id": "d1", "text": "one"},
    {"_id": "d2", "title": "T", "text": "two"},
    {"_id": "d3", "title": "", "text": "x"},
]
QUERIES = [{"_id": "1", "text": "first"}, {"_id": "2", "text": "second"}]
QRELS = "query-id\tcorpus-id\tscore\n1\td2\t2\n1\td3\t0\n2\td1\t1\n"
ROWS = [("first", "T two", 2.0), ("first", "x", 0.0), ("second", "one", 1.0)]


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def make(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def make_folder(corpus=CORPUS, queries=QUERIES, **qrels: str) -> Path:
        write(corpus if isinstance(corpus, str) else lines(corpus), "my/corpus.jsonl")
        write(queries if isinstance(queries, str) else lines(queries), "my/queries.jsonl")
        for name, content in (qrels or {"train": QRELS}).items():
            write(content, f"my/qrels/{name}.tsv")
        return Path("my")

    return make_folder


def test_rows_are_query_document_and_grade(make):
    folder = make(train=QRELS, test=QRELS + "2\td2\t1\n")
    head = head_of(folder)
    assert (head.names, head.sample[0][2]) == (["query", "document", "grade"], "2")
    assert rows_of(folder) == rows_of(folder, format="beir") == ROWS
    reading, _ = read(folder, "grade", "query")
    assert reading.table.column_names == ["grade", "query"]
    places = [str(place) for place in reading.locate(np.array([2, 0]))]
    assert places == ["my/qrels/train.tsv:4", "my/qrels/train.tsv:2"]
    assert len(rows_of("my/qrels/test.tsv", format="beir")) == 4


def test_a_file_of_judgments_without_a_header_and_numbers_as_ids(make):
    folder = make(corpus=[{"_id": 1, "text": "one"}], queries=[{"_id": 7, "text": "q"}], dev="7\t1\t0.5\n")
    assert rows_of(folder) == [("q", "one", 0.5)]


def test_bad_rows(make):
    folder = make(
        corpus=lines(CORPUS) + "{oops\n" + lines([{"_id": "d9", "text": 5}]),
        train=QRELS + "9\td1\t1\n1\td8\t1\n1 d1 1\n1\td1\tyes\n",
    )
    reading, bad = read(folder)
    assert tuples(reading) == ROWS
    assert reading.rows_read == 7
    told_rows = {(row.file, row.line, row.kind) for row in bad.first}
    assert told_rows == {
        ("my/corpus.jsonl", 4, "json"),
        ("my/corpus.jsonl", 5, "type"),
        ("my/qrels/train.tsv", 5, "dangling"),
        ("my/qrels/train.tsv", 6, "dangling"),
        ("my/qrels/train.tsv", 7, "ragged"),
        ("my/qrels/train.tsv", 8, "grade"),
    }
    answer = error_message(folder)
    assert "4 of 7 rows are bad" in answer  # of unknown ids a few are usual
    assert "my/qrels/train.tsv:8: column 'grade' is not a finite number: yes" in answer
    answer = error_message(make(train="query-id\tcorpus-id\tscore\n9\td1\t1\n1\td8\t1\n1\td1\t1\n"))
    assert "my/qrels/train.tsv:2: column 'query' has an id that is not in queries.jsonl: 9" in answer
    assert "my/qrels/train.tsv:3: column 'document' has an id that is not in corpus.jsonl: d8" in answer


def test_a_repeated_id_is_reported_with_its_line(make):
    assert "my/corpus.jsonl:4: column '_id' has an id that occurs twice: d2" in error_message(
        make(corpus=[*CORPUS, CORPUS[1] | {"text": "another"}])
    )
    assert rows_of(make(corpus=[*CORPUS, CORPUS[1]])) == ROWS


def test_several_splits_of_judgments_need_a_choice(make):
    answer = error_message(make(test=QRELS, dev=QRELS))
    assert "'my' has no qrels/train.tsv, but dev.tsv, test.tsv." in answer
    assert "data.path=my/qrels/dev.tsv" in answer


def test_parts_that_are_missing_are_named(make):
    folder = make()
    (folder / "corpus.jsonl").unlink()
    assert "'my' has no corpus.jsonl. It must be a BEIR folder" in error_message(folder, format="beir")
    assert "there is no file 'nowhere'" in error_message("nowhere", format="beir")
    make(corpus=[{"id": "1", "text": "x"}, {"id": "2", "text": "y"}])
    assert 'my/corpus.jsonl: has no "_id".' in error_message(folder)


def test_the_fingerprint_is_of_all_parts(make):
    from finetune.data.sources import ReadOptions, open_source

    prints = []
    for changes in ({}, {"corpus": [*CORPUS[:2], {"_id": "d3", "text": "y"}]}, {"train": QRELS + "2\td2\t1\n"}):
        prints.append(open_source(str(make(**changes)), ReadOptions()).fingerprint())
    assert len(set(prints)) == 3


def test_usual_faults_of_published_folders_are_left_out_without_an_error(make):
    corpus = [*CORPUS, {"_id": "d4", "title": "", "text": " "}]
    folder = make(corpus, train=QRELS + "1\td9\t1\n2\td4\t1\n2\td1\t2\n1\td2\t2\n")
    reading, bad = read(folder)
    assert tuples(reading) == [*ROWS[:2], ("second", "one", 2.0), ROWS[0]]
    assert [(row.line, row.kind) for row in bad.first] == [(5, "dangling"), (4, "regraded"), (6, "blank")]
    assert bad.serious == 0
    data = load(csv_data(str(folder)))
    assert data.notes[:2] == [
        "Left out: 1 judgment of an id that is not there, "
        "1 judgment that is given again with another grade (the last one counts), 1 empty text.",
        "1 duplicate row was left out: each was kept once.",
    ]
    assert len(data.problems.read_text().splitlines()) == 3


def test_a_folder_without_judgments_for_training_notes_which_are_used(make):
    folder = make(test=QRELS)
    assert rows_of(folder) == ROWS
    assert head_of(folder).notes == ["'my' has no judgments for training: those of test.tsv are used."]
    assert head_of("my/qrels/test.tsv").notes == []
    assert rows_of("my/qrels/test.tsv") == ROWS


def test_a_folder_of_folders_and_one_without_queries_get_advice(make, tmp_path):
    folder = make()
    (tmp_path / "all").mkdir()
    folder.rename("all/android")
    answer = error_message("all")
    assert "'all' holds the BEIR folder android. Name it, as in data.path=all/android." in answer
    assert "It holds:" not in answer
    Path("all/pairs.csv").write_text("question,answer\nq,a\n")
    assert "It holds: pairs.csv." in error_message("all")
    shutil.copytree("all/android", "all/english")
    assert "'all' holds several BEIR folders: android, english. Name one of them, as in" in error_message("all")
    shutil.rmtree("all/english")
    assert "as in data.validation_path=all/android." in "".join(
        str(problem) for problem in check_head(csv_data("all/android", validation_path="all"))
    )
    Path("all/android/queries.jsonl").unlink()
    assert "'all/android' has no queries.jsonl." in error_message("all/android")
