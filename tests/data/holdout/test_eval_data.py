"""What is held out of scored pairs and labelled items, and sources of which all is held out."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from finetune.data.holdout.eval_source import EvalSource
from finetune.data.load import load
from finetune.errors import CheckFailed
from tests.data.conftest import csv_data


@pytest.fixture
def table(tmp_path):
    """Write a CSV file of columns into the test's folder."""

    def write(name, **columns):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return tmp_path / name

    return write


def scored_table(table, count=100):
    texts = {"text1": [f"a {i}" for i in range(count)], "text2": [f"b {i}" for i in range(count)]}
    return table("scored.csv", **texts, score=[i / count for i in range(count)])


def test_a_part_of_the_scored_pairs_is_held_out(table):
    data = load(csv_data(scored_table(table), validation_fraction=0.2))
    assert data.validation is None
    assert data.pairs is not None
    assert len(data.pairs.score) == data.facts["validation_pairs"] == 20
    assert len(data.train) == 80
    assert not set(data.train.used_items()) & {*data.pairs.left, *data.pairs.right}
    assert "Held out of training: 20 scored pairs." in data.notes
    for left, right, score in zip(data.pairs.left, data.pairs.right, data.pairs.score, strict=True):
        number = round(score * 100)
        assert data.items.take(np.array([left, right])) == [f"a {number}", f"b {number}"]
    assert data.held.kinds() == ["scored pairs"]


def test_too_few_scored_pairs_leave_nothing_to_evaluate_on(table):
    data = load(csv_data(scored_table(table, 5), validation_fraction=0.1))
    assert data.pairs is None
    assert any("Nothing to evaluate on" in note for note in data.notes)
    assert data.held.kinds() == []


def test_of_few_classes_the_training_items_are_known(table):
    path = table("labelled.csv", text=[f"t {i}" for i in range(100)], label=[f"c{i % 4}" for i in range(100)])
    data = load(csv_data(path, validation_fraction=0.2))
    assert data.labelled is not None
    assert len(data.labelled.items) == 100
    asked = data.labelled.items[~data.labelled.known]
    assert sorted(asked) == sorted(data.validation.queries)
    assert sorted(data.labelled.items[data.labelled.known]) == sorted(data.train.anchor)
    for item, label in zip(data.labelled.items, data.labelled.label, strict=True):
        number = int(data.items.take(np.array([item]))[0][2:])
        assert data.labels[label] == f"c{number % 4}"


def test_of_new_classes_half_of_each_is_known(table):
    path = table("labelled.csv", text=[f"t {i}" for i in range(600)], label=[f"c{i % 150}" for i in range(600)])
    data = load(csv_data(path, validation_fraction=0.1))
    assert data.labelled is not None
    assert not set(data.labelled.items) & set(data.train.anchor)
    for label in set(data.labelled.label):
        assert data.labelled.known[data.labelled.label == label].tolist().count(True) == 2


def other(path, run=None, **settings):
    return EvalSource("evaluation.mine.data", {"path": str(path), **settings}, run or csv_data("unread.csv"))


def test_all_of_another_source_is_measured_on(table):
    held = other(scored_table(table)).load()
    assert held.kinds() == ["scored pairs"]
    assert len(held.of("scored pairs").score) == 100
    path = table("labelled.csv", text=[f"t {i}" for i in range(8)], label=[f"c{i % 2}" for i in range(8)])
    held = other(path).load()
    assert held.kinds() == ["judgments", "labelled items"]
    assert held.of("labelled items").known.sum() == 4
    assert len(held.of("judgments").grade) == 8 * 3


def test_grades_are_kept(table):
    path = table("judged.csv", query=["q", "q", "q", "r"], document=["a", "b", "c", "a"], grade=[2, 1, 0, 3])
    held = other(path).load()
    judged = held.of("judgments")
    found = {
        (held.items.take(judged.queries[[q]])[0], held.items.take(judged.corpus[[d]])[0]): grade
        for q, d, grade in zip(judged.query_index, judged.document_index, judged.grade, strict=True)
    }
    assert found == {("q", "a"): 2, ("q", "b"): 1, ("q", "c"): 0, ("r", "a"): 3}


def test_of_a_beir_folder_all_documents_are_searched_under_the_runs_prompts(tmp_path):
    write_beir(tmp_path / "beir")
    prompts = {"anchor": "query: ", "positive": "passage: "}
    held = other(tmp_path / "beir", replace(csv_data("unread.csv"), prompts=prompts)).load()
    judged = held.of("judgments")
    assert held.items.take(judged.queries) == ["query: red"]
    assert sorted(held.items.take(judged.corpus)) == ["passage: green", "passage: red"]
    assert held.notes == ["1 of 2 validation queries have no right answer and are left out."]


def write_beir(folder, qrels="q1\td1\t1\n", corpus=({"_id": "d1", "text": "red"}, {"_id": "d2", "text": "green"})):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corpus))
    queries = ({"_id": "q1", "text": "red"}, {"_id": "q2", "text": "blue"})
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qrels": "q1\td9\t1\n"}, "test.tsv:2: column 'document' has an id that is not in corpus.jsonl: d9"),
        ({"corpus": ()}, "corpus.jsonl' is empty"),
        ({"corpus": ({"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"})}, "has an id that occurs twice: d1"),
        ({"qrels": "q1\td1\t0\n"}, "has no judgment with a score above 0"),
    ],
)
def test_problems_in_a_beir_folder_are_reported(tmp_path, changes, words):
    write_beir(tmp_path / "beir", **changes)
    with pytest.raises(CheckFailed) as caught:
        other(tmp_path / "beir").load()
    assert words in str(caught.value)
    assert all(problem.where.startswith(("evaluation.mine.data.", str(tmp_path))) for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": "nowhere.csv"}, "evaluation.mine.data.path: there is no file"),
        ({"colums": ["a", "b"]}, "evaluation.mine.data.colums: a source has no such key. Did you mean columns?"),
        ({"header": "maybe"}, "evaluation.mine.data.header: expected true"),
        ({"batch_size": 3}, "evaluation.mine.data.batch_size: a source has no such key."),
        ({"columns": ["text1", "nothing"]}, "evaluation.mine.data.columns: there is no column 'nothing'"),
    ],
)
def test_problems_of_a_source_are_reported_at_its_key(table, settings, words):
    problems = other(**{"path": scored_table(table), **settings}).check()
    assert len(problems) == 1
    assert words in str(problems[0])


def test_texts_alone_measure_nothing(table):
    with pytest.raises(CheckFailed, match="texts alone say nothing"):
        other(table("texts.csv", text=[f"t {i}" for i in range(5)])).load()


def test_bad_rows_of_another_source_are_left_out_as_the_run_says_or_it_itself(tmp_path, table):
    write_beir(tmp_path / "beir", "q1\td1\t1\nq1\td2\tyes\n")
    with pytest.raises(CheckFailed, match=r": \+\+evaluation.mine.data.on_bad_rows=skip"):
        other(tmp_path / "beir").load()
    for source in (
        other(tmp_path / "beir", csv_data("unread.csv", on_bad_rows="skip")),
        other(tmp_path / "beir", on_bad_rows="skip"),
    ):
        held = source.load()
        assert held.notes[-1] == f"{tmp_path / 'beir'}: left out 1 bad row."
        assert json.loads(held.problems.read_text())["line"] == 3
    path = table("scored.csv", text1=["a", "b", "c"], text2=["x", "y", "z"], score=["1", "?", "0"])
    held = other(path, on_bad_rows="skip").load()
    assert "1 bad row was left out." in held.notes
    assert held.problems is not None


def test_a_file_of_judgments_means_its_folder_with_the_whole_corpus(tmp_path):
    write_beir(tmp_path / "beir")
    (tmp_path / "beir/qrels/dev.tsv").write_text("q2\td2\t1\n")
    judged = other(tmp_path / "beir/qrels/dev.tsv").load().of("judgments")
    assert (len(judged.queries), len(judged.corpus)) == (1, 2)


def test_numbers_of_another_source_may_have_a_decimal_comma(tmp_path):
    (tmp_path / "scored.csv").write_text("text1;text2;score\na;x;0,5\nb;y;1,234\n")
    assert other(tmp_path / "scored.csv").load().of("scored pairs").score.tolist() == pytest.approx([0.5, 1.234])
    (tmp_path / "scored.csv").write_text("text1;text2;score\na;x;1,234\nb;y;1,235\n")
    problem = str(other(tmp_path / "scored.csv").check()[0])
    assert problem.startswith("evaluation.mine.data.decimal: ")
    assert """'++evaluation.mine.data.decimal=","' or '++evaluation.mine.data.decimal="."'""" in problem
    told = other(tmp_path / "scored.csv", decimal=".").load()
    assert told.of("scored pairs").score.tolist() == [1234, 1235]
