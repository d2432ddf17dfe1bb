"""Rows are split by concept without leaks, and written so that finetune reads them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scripts.tasks.baselines import describe, ndcg, overlap
from scripts.tasks.split import split
from scripts.tasks.task import Row, Task
from scripts.tasks.write import write
from sklearn.metrics import ndcg_score

from finetune.data.load import load
from tests.data.conftest import csv_data

TASK = Task("animals", "Find an animal", "a hint", "an animal", "English", (), lambda files: iter(()))
RNG = np.random.default_rng(0)


def text(words: int) -> str:
    return " ".join("".join(RNG.choice(list("abcdefghij"), 7)) for _ in range(words))


ROWS = [Row(f"concept {i // 2}", document, text(4)) for i in range(200) for document in [text(10)] * (1 + i % 2)]


@pytest.mark.parametrize("limit", [100, 1000])
def test_no_concept_is_in_both_parts_and_all_documents_are_searched(limit):
    parts = split(ROWS, replace(TASK, most_queries=limit, test_share=0.5))
    concept = {row.document: row.concept for row in ROWS}
    trained, tested = ({concept[parts.documents[i]] for _, i in pairs} for pairs in (parts.train, parts.test))
    assert trained and tested and not trained & tested
    assert set(parts.documents) == set(concept)
    assert 0 < len(parts.test) <= min(limit, len(ROWS) / 2)
    assert len(parts.train) + len(parts.test) == len(ROWS)


def test_the_split_is_the_same_in_any_process_and_another_for_another_task():
    parts = split(ROWS, TASK)
    assert parts == split(ROWS, TASK)
    assert parts.test != split(ROWS, replace(TASK, name="plants")).test


def test_concepts_with_equal_texts_are_in_one_part():
    twins = [
        Row(f"{row.concept}, again", row.document.upper() + "!", text(4)) if i % 2 else
        Row(f"{row.concept}, again", text(10), row.query.title())
        for i, row in enumerate(ROWS)
    ]  # fmt: skip
    parts = split(ROWS + twins, replace(TASK, test_share=0.5))
    trained = {part.lower().rstrip("!") for query, i in parts.train for part in (query, parts.documents[i])}
    tested = {part.lower().rstrip("!") for query, i in parts.test for part in (query, parts.documents[i])}
    assert trained and tested and not trained & tested
    assert len(parts.train) + len(parts.test) == len(ROWS + twins)


def test_a_nearly_equal_text_is_searched_but_not_trained_on():
    near = [Row(f"near {i}", row.document + " x", text(4)) for i, row in enumerate(ROWS)]
    parts = split(ROWS + near, replace(TASK, test_share=0.3))
    tested = {parts.documents[i].removesuffix(" x") for _, i in parts.test}
    assert not tested & {parts.documents[i].removesuffix(" x") for _, i in parts.train}
    assert len(parts.documents) == len({row.document for row in ROWS + near})


def test_copies_and_queries_with_many_documents_are_no_queries():
    rows = [
        *ROWS,
        Row("copy", "A Red fox runs", "a red fox"),
        *(Row(f"m{i}", text(10), "Many, many") for i in range(4)),
    ]
    parts = split(rows, TASK)
    assert not {"a red fox", "Many, many"} & {query for query, _ in parts.train + parts.test}
    assert "A Red fox runs" in parts.documents


def test_a_corpus_is_limited_by_whole_concepts():
    parts = split(ROWS, replace(TASK, most_documents=50))
    assert 40 <= len(parts.documents) <= 50
    assert len(parts.train) + len(parts.test) == sum(row.document in parts.documents for row in ROWS)


def test_an_ordinary_split_keeps_queries_apart_and_shares_documents():
    rows = [Row(f"c{i}", f"document {i}", text(3)) for i in range(50) for _ in range(6)]
    parts = split(rows, replace(TASK, split="pairs"))
    assert not {query for query, _ in parts.train} & {query for query, _ in parts.test}
    assert describe(parts)["test documents also trained on"] > 20


def test_finetune_reads_what_is_written_and_finds_no_leak(tmp_path):
    parts = split(ROWS, TASK)
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals/stale").touch()
    write(parts, TASK, tmp_path / "animals", {"corpus": len(parts.documents)})
    folder = tmp_path / "animals"
    assert [path.name for path in tmp_path.iterdir()] == ["animals"]
    assert not (folder / "stale").exists()
    dataset = load(csv_data(folder / "train.csv", validation_path=str(folder), near_leaks=True))
    assert dataset.leaks is not None
    assert (dataset.leaks.exact, dataset.leaks.normalized, dataset.leaks.near) == (0, 0, 0)
    with (folder / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["anchor"], row["positive"]) for row in rows] == [(q, parts.documents[i]) for q, i in parts.train]
    texts = {
        line["_id"]: line["text"]
        for name in ("corpus", "queries")
        for line in map(json.loads, (folder / f"{name}.jsonl").read_text("utf-8").splitlines())
    }
    for part, pairs in (("train", parts.train), ("test", parts.test)):
        lines = [line.split("\t") for line in (folder / f"qrels/{part}.tsv").read_text("utf-8").splitlines()[1:]]
        assert [(texts[query], texts[document]) for query, document, _ in lines] == [
            (query, parts.documents[i]) for query, i in pairs
        ]
    assert parts.test[0][0] in (folder / "README.md").read_text("utf-8")


def test_ndcg_is_that_of_scikit_learn():
    hits = RNG.permuted(np.tile(np.arange(30), (20, 1)), axis=1)
    right = [set(RNG.choice(30, size=RNG.integers(1, 4), replace=False).tolist()) for _ in hits]
    truth = np.array([[document in documents for document in range(30)] for documents in right], float)
    scores = np.zeros((20, 30))
    np.put_along_axis(scores, hits, np.arange(30.0, 0, -1)[None].repeat(20, 0), axis=1)
    assert ndcg(hits[:, :10], right) == pytest.approx(ndcg_score(truth, scores, k=10))


def test_overlap_counts_distinct_words():
    assert overlap("The the fox", "a FOX, or two") == 0.5
