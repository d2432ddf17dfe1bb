"""What is told about a data set, as plain data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.dataset import Dataset, assemble
from finetune.data.inspect import stats
from finetune.data.inspect.describe import describe
from finetune.data.inspect.stats import histogram, spread
from finetune.data.items import Items, Part
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.schema.layouts import ColumnSetting, find_roles
from finetune.data.source import Head
from tests.data.tables import prepared

Columns = dict[str, list[Any]]


def described(
    columns: Columns, told: ColumnSetting = None, tokenizer: Any = None, notes: tuple[str, ...] = (), **settings: Any
) -> dict[str, Any]:
    """Return what is told about a table of these columns, a fifth of it held out; `settings` are its source's."""
    rows = list(zip(*columns.values(), strict=True))
    head = Head(list(columns), rows[:5], notes=list(notes))
    dataset = assemble(prepared(columns, told, **settings)[0], None, 0.2, 0, near_leaks=True)
    return describe(dataset, [(head, find_roles(list(columns), rows[:5], told))], tokenizer, 8, 0)


def of_relations(texts: list[str], train: Relations, **more: Any) -> dict[str, Any]:
    items = Items.of_texts(pa.array(texts, pa.large_string()))
    known = KnownPositives.of_relations(train, len(texts))
    dataset = Dataset(items, train, known, None, ["data.csv"], ["pairs"], **more)
    return describe(dataset, [], None, 8, 0)


def test_lengths_are_those_of_the_distinct_texts_of_each_role():
    columns = {"question": [f"q{'x' * i}" for i in range(100)], "answer": ["y" * (i % 2 + 1) for i in range(100)]}
    roles = {row["role"]: row for row in described(columns)["lengths"]["roles"]}
    assert list(roles) == ["anchor", "positive", "query", "corpus"]
    assert roles["anchor"]["texts"] == 80
    assert roles["positive"]["texts"] == 2
    assert (roles["positive"]["min"], roles["positive"]["50"], roles["positive"]["max"]) == (1, 1, 2)


def test_tokens_are_counted_before_they_are_cut(tiny_model):
    from finetune.models.tokenizer import load_tokenizer

    columns = {"question": ["red " * (i + 1) for i in range(20)], "answer": [f"blue {i}" for i in range(20)]}
    facts = described(columns, tokenizer=load_tokenizer(tiny_model, "tiny"))
    anchor = facts["lengths"]["roles"][0]
    assert facts["lengths"]["unit"] == "tokens"
    assert anchor["max"] > 15
    assert anchor["truncated"] == pytest.approx(14 / 20, abs=0.15)
    assert any("Cut at data.max_length=8 tokens: " in warning for warning in facts["warnings"])
    tokens = facts["examples"][0]["items"][0]
    assert tokens["tokens"].startswith("[CLS]|red")
    assert tokens["length"] <= 8


def test_of_many_texts_a_sample_is_tokenized_and_counted(tiny_model, monkeypatch):
    from finetune.models.tokenizer import load_tokenizer

    monkeypatch.setattr(stats, "_MOST_TOKENIZED", (150, 1_000_000))
    columns = {"question": [f"red {i}" for i in range(1000)], "answer": [f"blue {i}" for i in range(1000)]}
    roles = described(columns, tokenizer=load_tokenizer(tiny_model, "tiny"))["lengths"]["roles"]
    assert [(row["texts"], row["measured"]) for row in roles[:2]] == [(800, 150), (800, 150)]


def test_classes_by_size_and_what_may_go_wrong_with_them():
    label = [0] * 60 + [1] * 2 + [2] * 2
    train = Relations(np.arange(64), np.full(64, -1), label=np.array(label))
    facts = of_relations([f"t{i}" for i in range(64)], train, labels=["a", "b", "[red]c\x1b"])
    found = facts["classes"]
    assert (found["number"], found["smallest"], found["median"], found["largest"]) == (3, 2, 2, 60)
    assert found["names"] == {"a": 60, "b": 2, "[red]c\\x1b": 2}
    assert [warning.split(":")[0] for warning in facts["warnings"]] == ["Only 3 classes", "The classes are very uneven"]


def test_positives_of_an_anchor_are_counted_once():
    train = Relations(np.array([0, 0, 0, 1, 2]), np.array([3, 3, 4, 3, 5]), np.array([[4], [5], [5], [-1], [3]]))
    facts = of_relations(list("abcdef"), train)["per_anchor"]
    assert facts["positives"] == {"1": 2, "2": 1}
    assert facts["max"] == 2
    assert facts["negatives_per_row"]["min"] == 0


def test_few_distinct_scores_are_counted_one_by_one_and_many_in_bins():
    pairs = np.arange(40), np.arange(40) + 40
    texts = [f"t{i}" for i in range(80)]
    few = of_relations(texts, Relations(*pairs, score=np.tile([0, 1], 20)[:, None].astype(np.float32)))["scores"]
    assert few["values"] == {"0": 20, "1": 20}
    many = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    many = np.concatenate([many, np.full((40, 1), np.nan, np.float32)], axis=1)
    found = of_relations(texts, Relations(*pairs, negatives=np.full((40, 1), -1), score=many))["scores"]
    assert [row["role"] for row in found["roles"]] == ["positive"]
    assert sum(found["histogram"]["shares"]["positive"]) == pytest.approx(1)


def test_the_most_repeated_texts_are_named():
    train = Relations(np.arange(20), np.array([20] * 12 + [21] * 5 + [22, 23, 24]))
    found = of_relations([f"t{i}" for i in range(25)], train)["repeated"]
    assert found == [
        {"rows": 12, "role": "positive", "text": "t20"},
        {"rows": 5, "role": "positive", "text": "t21"},
    ]


def test_items_that_are_not_text_are_shown_by_their_kind():
    images = pa.array([f"{i}.png" for i in range(4)], pa.large_string())
    items = Items((Part("text", pa.array(["a", "b", "c", "d"], pa.large_string())), Part("image", images)))
    train = Relations(np.arange(4), np.arange(4) + 4)
    dataset = Dataset(items, train, KnownPositives.of_relations(train, 8), None, ["data.csv"], ["pairs"])
    head = Head(["caption", "image"], [])
    facts = describe(dataset, [(head, find_roles(head.names))], None, 8, 0)
    assert [column["kind"] for column in facts["recognised"][0]["columns"]] == ["text", "image"]
    assert [row["role"] for row in facts["lengths"]["roles"]] == ["anchor"]
    assert facts["examples"][0]["items"][1]["text"] == "0.png"


def test_bad_rows_that_were_left_out_are_shown(tmp_path):
    listed = tmp_path / "problems.jsonl"
    row = {"file": "d.csv", "line": 3, "column": "q", "kind": "empty", "what": "there is no text", "text": ""}
    listed.write_text((json.dumps(row) + "\n") * 30, encoding="utf-8")
    train = Relations(np.array([0, 1]), np.array([2, 3]))
    found = of_relations(list("abcd"), train, facts={"rows_skipped": 30}, problems=listed)["bad_rows"]
    assert found["skipped"] == 30
    assert found["first"] == ["d.csv:3 column 'q': there is no text."] * 5


@given(values=st.lists(st.integers(0, 10**6), max_size=50), others=st.lists(st.integers(0, 50), max_size=50))
def test_histograms_count_everything_in_few_bins(values, others):
    named = {"a": np.array(values, np.int64), "b": np.array(others, np.int64)}
    found = histogram({name: numbers for name, numbers in named.items() if len(numbers)})
    if not found:
        assert not values
        assert not others
        return
    assert len(found["edges"]) <= stats.BARS + 2
    assert found["edges"] == sorted(set(found["edges"]))
    for name, shares in found["shares"].items():
        counts = [((named[name] >= low) & (named[name] < high)).sum() for low, high in _bins(found["edges"])]
        assert shares == pytest.approx([count / len(named[name]) for count in counts], abs=1e-3)


def _bins(edges: list[float]) -> list[tuple[float, float]]:
    return list(zip(edges, [*edges[1:], float("inf")], strict=True))


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_histograms_and_percentiles_of_any_numbers(values):
    numbers = np.array(values, np.float32)
    found = histogram({"a": numbers})
    assert sum(found["shares"]["a"]) == pytest.approx(1, abs=0.01)
    percentiles = list(spread(numbers).values())
    assert percentiles == sorted(percentiles)


HOSTILE = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip())


@settings(deadline=None)
@given(texts=st.lists(HOSTILE, min_size=6, max_size=12, unique_by=str.strip), name=HOSTILE)
def test_any_text_is_shown_as_plain_data_on_one_line(texts, name):
    half = len(texts) // 2
    columns = {"anchor": texts[:half], "positive": texts[half : 2 * half], name.strip() + "_": ["x"] * half}
    if len({*columns}) < 3:
        return
    facts = described(columns, {"anchor": "anchor", "positive": "positive"})
    assert json.loads(json.dumps(facts)) == json.loads(json.dumps(facts, allow_nan=False))
    for text in _strings(facts):
        assert text.isprintable(), text


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []
