from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.arrays import distinct, flat_ranges
from finetune.data.items import Items
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations

texts = st.lists(st.one_of(st.none(), st.text("abé", max_size=2)), max_size=12)
pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20)


def relations_of(rows: list[tuple[int, ...]]) -> Relations:
    table = np.array(rows, np.int64)
    return Relations(table[:, 0], table[:, 1], table[:, 2:])


@given(columns=st.lists(texts, min_size=1, max_size=3))
def test_every_text_is_one_item_and_can_be_read_back(columns):
    arrays = [pa.chunked_array([column[:3], column[3:]], pa.string()) for column in columns]
    items, codes = Items.from_columns(arrays)
    known = items.texts.to_pylist()
    assert len(known) == len(set(known)) == len(items)
    assert set(known) == {text for column in columns for text in column if text is not None}
    for column, numbers in zip(columns, codes, strict=True):
        assert [known[n] if n >= 0 else None for n in numbers] == column


def test_items_are_taken_in_the_requested_order():
    items, _ = Items.from_columns([pa.array(["a", "b", "c"])])
    assert items.take(np.array([2, 0, 2])) == ["c", "a", "c"]


@given(values=st.lists(st.integers(-5, 5), max_size=30))
def test_distinct_is_numpys_unique(values):
    array = np.array(values, np.int64)
    np.testing.assert_array_equal(distinct(array), np.unique(array))


@given(ranges=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=10))
def test_flat_ranges_are_ranges(ranges):
    starts, lengths = (np.array([pair[i] for pair in ranges], np.int64) for i in (0, 1))
    assert flat_ranges(starts, lengths).tolist() == [s + i for s, n in ranges for i in range(n)]


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-1, 2)), max_size=30))
def test_distinct_rows_are_the_first_of_each(rows):
    relations = relations_of(rows) if rows else Relations(*(np.empty(0, np.int64),) * 2)
    assert relations.distinct_rows().tolist() == [i for i, row in enumerate(rows) if row not in rows[:i]]


@given(rows=pairs)
def test_known_positives_are_the_symmetric_graph(rows):
    known = KnownPositives.of_relations(relations_of(rows), int(relations_of(rows).columns().max(initial=-1)) + 1)
    graph = {(a, b) for a, p in rows for a, b in ((a, p), (p, a)) if a != b}
    place, neighbour = known.of(np.arange(12))
    assert list(zip(place.tolist(), neighbour.tolist(), strict=True)) == sorted(graph)


@given(rows=pairs, items=st.sets(st.integers(0, 12)))
def test_pairs_within_are_those_of_brute_force(rows, items):
    known = KnownPositives.of_relations(relations_of(rows), int(relations_of(rows).columns().max(initial=-1)) + 1)
    chosen = sorted(items)
    graph = {(a, b) for a, p in rows for a, b in ((a, p), (p, a)) if a != b}
    expected = [(i, j) for i, a in enumerate(chosen) for j, b in enumerate(chosen) if (a, b) in graph]
    found = known.pairs_within(np.array(chosen, np.int64))
    assert found.shape == (len(expected), 2)
    assert [tuple(pair) for pair in found.tolist()] == expected


def test_renumbering_keeps_who_belongs_to_whom():
    relations = relations_of([(7, 3, -1), (9, 3, 7)])
    used = relations.used_items()
    assert used.tolist() == [3, 7, 9]
    assert relations.renumbered(used).columns().tolist() == [[1, 0, -1], [2, 0, 1]]
