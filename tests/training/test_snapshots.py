"""What a report has in addition to metrics, on a small data set with planted mistakes."""

import csv
import json

import numpy as np
import pytest

from finetune.encoding.embedder import EmbeddingRecorder
from finetune.encoding.engine import Engine
from finetune.training.fit import fit
from tests.conftest import WORDS


@pytest.fixture
def reported(start, tmp_path):
    """Do a run with these overrides; return its report and what every evaluation embedded."""

    def make(name, *more):
        cfg, dataset, run = start(name, *more)
        asked = []
        real = Engine.embed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Engine, "embed", lambda self, encoder, tokens, items, *more: (
                asked.append((len(tokens), items)) or real(self, encoder, tokens, items, *more)))  # fmt: skip
            fit(cfg, dataset, run)
        return json.loads(run.report_data_path.read_text()), asked, dataset

    return make


def test_a_report_is_complete_and_nothing_is_embedded_twice(reported):
    report, asked, dataset = reported("a", "data.validation_fraction=0.2")
    counts = report["similarities"]
    assert len(counts["edges"]) == len(counts["before"]["positive"]) + 1
    held = sum(counts["before"]["positive"])
    assert held == sum(counts["after"]["positive"]) == dataset.validation.facts()["validation_judgments"]
    # The model has learnt: right pairs are more similar than they were, against wrong ones.
    middles = np.convolve(counts["edges"], [0.5, 0.5], "valid")
    mean = {(when, kind): np.average(middles, weights=counts[when][kind])
            for when in ("before", "after") for kind in ("positive", "negative")}  # fmt: skip
    assert (
        mean["after", "positive"] - mean["after", "negative"] > mean["before", "positive"] - mean["before", "negative"]
    )
    assert len(report["map"]["before"]) == len(report["map"]["after"]) == len(report["map"]["texts"])
    assert report["map"]["labels"] is None
    example = report["examples"]["retrieval"][0]
    assert {"query", "change", "before", "after", "right_rank_before", "right_rank_after"} <= example.keys()
    assert report["forgetting"]["metrics"]["nDCG@10"].keys() >= {"before", "after", "low", "high"}
    assert report["cost"]["tokens"] > report["cost"]["items"] > 0
    assert report["cost"]["seconds"] > report["cost"]["training_seconds"] > 0
    assert report["again"]["data_fingerprint"] == dataset.fingerprint
    assert report["data"]["lengths"]["anchor"]["median"] > 0
    own = [items for tokens, items in asked if tokens == len(dataset.items)]
    assert len(own) == 3  # before, after, and the training pairs in the end
    assert not set(own[1]) & set(own[2])


def test_planted_wrong_pairs_are_listed_with_their_line_numbers(reported, tmp_path):
    rows = [[f"{a} {b} {i}", f"{b} {a} {i}"] for i in range(12) for a in WORDS[:5] for b in WORDS[10:14]]
    wrong = range(3, 240, 13)
    others = [*wrong[7:], *wrong[:7]]  # whose answers they get, and with which they have little in common
    moved = [rows[row][1] for row in others]
    for row, answer in zip(wrong, moved, strict=True):
        rows[row][1] = answer
    with (tmp_path / "planted.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["anchor", "positive"], *rows])
    more = ["data.path=planted.csv", "data.validation_fraction=0.5", "~evaluation.forgetting"]
    report, _, dataset = reported("b", *more)
    asked = dataset.items.take(dataset.validation.queries)
    held = {f"planted.csv:{row + 2}" for row in wrong if rows[row][0] in asked}
    found = {one["place"] for one in report["data"]["wrong_labels"] if one["of"] == "held out"}
    assert len(held) > 5
    assert found <= held
    assert len(found) >= 0.8 * len(held)
    missed = {(one["anchor"], one["text"]) for one in report["data"]["false_negatives"]}
    own = {(rows[row][0], answer) for row, answer in zip(others, moved, strict=True)}
    assert len(missed & own) > len(held) / 3  # what they should have been called right with
    assert "forgetting" not in report


def test_classes_have_colors_and_wrong_labels_are_found(reported, tmp_path):
    with (tmp_path / "classes.csv").open("w", newline="") as file:
        rows = [[f"{word} {other} {i}", word] for i in range(6) for word in WORDS[:4] for other in WORDS[10:15]]
        rows[7][1] = WORDS[3]
        csv.writer(file).writerows([["text", "label"], *rows])
    more = ["data.path=classes.csv", "loss=supcon", "trainer.max_epochs=5", "data.items_per_class=4"]
    report, *_ = reported("c", *more)
    assert sorted(report["map"]["labels"]) == sorted(WORDS[:4])
    assert {label for *_, label in report["map"]["after"]} == {0, 1, 2, 3}
    first = report["data"]["wrong_labels"][0]
    assert (first["anchor"], first["positive"], first["text"]) == (rows[7][0], WORDS[3], rows[7][0].split()[0])
    assert first["place"] == "classes.csv:9"
    assert report["data"]["false_negatives"] == []


def test_without_evaluation_nothing_is_embedded(reported):
    report, asked, _ = reported("d", "evaluation=none", "trainer.max_epochs=null", "trainer.max_steps=1")
    assert asked == []
    assert not {"similarities", "map", "forgetting"} & report.keys()
    assert report["examples"] == {}


def test_selected_embeddings_are_recorded():
    watched = EmbeddingRecorder.empty(np.array([2, 5, 9]), 2)
    watched.record(np.array([9, 1, 2]), np.array([[9, 9], [1, 1], [2, 2]], np.float32))
    assert watched.missing().tolist() == [5]
    assert watched.embeddings(np.array([9, 2])).tolist() == [[9, 9], [2, 2]]
    watched.record(np.array([10, 5]), np.zeros((2, 2), np.float32))
    assert not len(watched.missing())
