from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.holdout.split import MAX_JUDGMENTS, MAX_QUERIES, Split, connected, hold_out, judge
from finetune.data.known_positives import KnownPositives
from finetune.data.load import load
from finetune.data.relations import Relations
from tests.data.conftest import csv_data

pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=60)


def relations_of(rows: list[tuple[int, int]]) -> Relations:
    table = np.array(rows, np.int64)
    return Relations(table[:, 0], table[:, 1])


@given(rows=pairs)
def test_connected_groups_are_those_of_networkx(rows):
    relations = relations_of(rows)
    label = connected(relations.anchor, relations.positive)
    for group in nx.connected_components(nx.Graph(rows)):
        assert {int(label[item]) for item in group} == {min(group)}


def test_a_long_chain_is_one_group():
    order = np.random.default_rng(0).permutation(100_000)
    assert set(connected(order[:-1], order[1:])) == {0}


@given(rows=pairs, fraction=st.floats(0, 0.5), seed=st.integers(0, 3))
def test_every_row_is_on_one_side_and_at_most_the_fraction_is_held_out(rows, fraction, seed):
    relations = relations_of(rows)
    split = hold_out(relations, fraction, seed)
    assert sorted([*split.train, *split.held]) == list(range(len(rows)))
    assert len(split.held) <= fraction * len(rows)
    assert (split.by == "nothing") == (len(split.held) == 0)
    train, held = relations.take(split.train), relations.take(split.held)
    if split.by == "group":
        assert not set(train.columns().flat) & set(held.columns().flat)
    assert not set(train.anchor) & set(held.anchor)


def test_the_configured_fraction_is_held_out():
    relations = relations_of([(i // 3, 10_000 + i) for i in range(3000)])
    split = hold_out(relations, 0.1, 0)
    assert split.by == "group"
    assert 290 <= len(split.held) <= 300


def test_no_more_queries_than_are_of_use():
    relations = relations_of([(i, 50_000 + i) for i in range(50_000)])
    assert len(hold_out(relations, 0.5, 0).held) == MAX_QUERIES


@pytest.mark.parametrize(("giant", "by"), [(400, "group"), (600, "anchor")])
def test_where_most_rows_hang_together_anchors_are_held(giant, by):
    relations = relations_of([(i, 5000 if i < giant else 5001 + i) for i in range(1000)])
    split = hold_out(relations, 0.1, 0)
    assert split.by == by
    assert len(split.held) == 100
    assert (split.held < giant).any() == (by == "anchor")


def test_one_giant_group_is_split_by_anchor_with_a_note(write):
    rows = "".join(f"q{i},a{i}\nq{i},shared{i % 5}\nq{i},common\n" for i in range(100))
    data = load(csv_data(write("question,answer\n" + rows), validation_fraction=0.1))
    assert data.validation is not None
    assert len(data.validation.queries) == 10
    assert not set(data.train.anchor) & set(data.validation.queries)
    assert any("anchors were held out" in note for note in data.notes)
    assert data.facts["leaks"] == 0


def test_held_anchors_search_among_all_positives():
    relations = relations_of([(0, 10), (0, 11), (1, 12), (2, 13)])
    known = KnownPositives.of_relations(relations, 14)
    judged = judge(relations, Split(np.array([2, 3]), np.array([0, 1]), "group"), "held", known)
    assert judged.queries.tolist() == [0]
    assert judged.corpus.tolist() == [10, 11, 12, 13]
    assert judged.query_index.tolist() == [0, 0]
    assert judged.corpus[judged.document_index].tolist() == [10, 11]
    assert judged.grade.tolist() == [1, 1]


def test_too_few_rows_to_hold_any_out_gives_a_note(write):
    data = load(csv_data(write("question,answer\nq1,a1\nq2,a2\nq3,a3\n"), validation_fraction=0.1))
    assert data.validation is None
    assert len(data.train) == 3
    assert any("Nothing to evaluate on" in note for note in data.notes)


def labelled(classes: int, members: int) -> Relations:
    label = np.repeat(np.arange(classes), members)
    anchor = np.random.default_rng(7).permutation(classes * members)
    return Relations(anchor, np.full(len(anchor), -1), label=label)


@pytest.mark.parametrize(("classes", "by"), [(10, "member"), (200, "class")])
def test_labelled_items_are_held_out_by_class_where_there_are_many(classes, by):
    relations = labelled(classes, 20)
    split = hold_out(relations, 0.1, 0)
    assert split.by == by
    held, train = set(relations.label[split.held]), set(relations.label[split.train])
    assert bool(held & train) == (by == "member")
    assert len(split.held) == classes * 2


@pytest.mark.parametrize("classes", [10, 200])
def test_right_for_a_held_item_is_every_other_of_its_class(classes):
    relations = labelled(classes, 20)
    split = hold_out(relations, 0.1, 0)
    group = np.empty(len(relations), np.int64)
    group[relations.anchor] = relations.label
    nobody = np.empty(0, np.int64)
    known = KnownPositives.of_pairs(nobody, nobody, len(relations), group)
    judged = judge(relations, split, "held", known)
    assert sorted(judged.queries) == sorted(relations.anchor[split.held])
    query, document = judged.queries[judged.query_index], judged.corpus[judged.document_index]
    assert (group[query] == group[document]).all()
    assert (query != document).all()
    assert np.bincount(judged.query_index).tolist() == [19] * len(judged.queries)
    inside = set(judged.corpus)
    assert inside == (set(judged.queries) if split.by == "class" else set(range(len(relations))))


def test_classes_of_very_many_items_are_thinned_so_that_the_judgments_can_be_kept():
    relations = labelled(2, 50_000)
    split = hold_out(relations, 0.1, 0)
    group = np.empty(len(relations), np.int64)
    group[relations.anchor] = relations.label
    nobody = np.empty(0, np.int64)
    judged = judge(relations, split, "held", KnownPositives.of_pairs(nobody, nobody, len(relations), group))
    assert len(judged.grade) <= MAX_JUDGMENTS
    assert len(judged.queries) == MAX_QUERIES
