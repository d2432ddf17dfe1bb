from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.batching import sampling
from finetune.data.batching.mixing import BatchSettings, Epochs, SourceShare
from finetune.data.batching.sampling import ByClass, Plan, Unique, pairs_within_classes
from finetune.data.relations import Relations

seeds = st.integers(0, 5)


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def batches(plan: Plan) -> list[list[int]]:
    return [plan.rows[low:high].tolist() for low, high in pairwise(plan.bounds)]


def relations_of(rows: list[tuple[int, ...]]) -> Relations:
    table = np.array(rows, np.int64)
    return Relations(table[:, 0], table[:, 1], table[:, 2:])


item = st.integers(0, 30)
triplets = st.lists(st.tuples(item, item, st.integers(-1, 30)), min_size=2, max_size=60)


@given(rows=triplets, batch_size=st.integers(2, 9), seed=seeds)
def test_no_item_is_in_two_rows_of_a_batch(rows, batch_size, seed):
    sampler = Unique(relations_of(rows), batch_size)
    found = batches(sampler.plan(random(seed)))
    assert len(found) == sampler.batches
    placed = [row for batch in found for row in batch]
    assert len(placed) == len(set(placed))
    for batch in found:
        assert len(batch) <= max(3, batch_size)
        items = [place for row in batch for place in {*rows[row]} - {-1}]
        assert len(items) == len(set(items))


@given(rows=triplets, batch_size=st.integers(2, 9), seed=seeds)
def test_a_row_is_left_out_only_if_it_fits_nowhere(rows, batch_size, seed):
    relations = relations_of(rows)
    sampler = Unique(relations, batch_size)
    found = batches(sampler.plan(random(seed)))
    left_out = set(range(len(rows))) - {row for batch in found for row in batch}
    # Rounds of random tries: with few batches nearly every free place was tried.
    free = [batch for batch in found if len(batch) < max(len(b) for b in found)]
    for row in left_out:
        fits = [batch for batch in free if not {*rows[row]} - {-1} & {i for other in batch for i in rows[other]}]
        assert len(fits) <= len(found) // 2 + 1


def test_nearly_all_rows_fit_where_there_is_room():
    numbers = random(0)
    rows = np.column_stack([numbers.integers(0, 20_000, 50_000), numbers.integers(0, 20_000, 50_000)])
    sampler = Unique(Relations(rows[:, 0], rows[:, 1]), 500)
    plan = sampler.plan(random(1))
    assert len(plan.rows) > 49_900
    sizes = np.diff(plan.bounds)
    assert sizes.min() > 480 and sizes.max() <= 500


def test_other_rows_are_left_out_in_other_passes():
    rows = [(0, i) for i in range(1, 41)]  # all share item 0: one row a batch
    sampler = Unique(relations_of(rows), 10)
    passes = [sampler.plan(random(seed)).rows.tolist() for seed in range(30)]
    assert {len(rows) for rows in passes} == {sampler.batches} == {4}
    assert len({row for rows in passes for row in rows}) > 30


@given(rows=triplets, batch_size=st.integers(2, 9), at_once=st.integers(1, 30), seed=seeds)
def test_looking_at_some_batches_at_a_time_finds_the_same(rows, batch_size, at_once, seed):
    sampler = Unique(relations_of(rows), batch_size)
    expected = sampler.plan(random(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_ROWS_AT_ONCE", at_once)
        found = sampler.plan(random(seed))
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.bounds, expected.bounds)


def test_more_items_than_fit_in_one_number_with_their_row_are_sorted_all_the_same():
    rows = [(0, 2**58), (0, 1), (2, 3), (2, 2**58)]
    found = batches(Unique(relations_of(rows), 4).plan(random(0)))
    items = [item for row in found[0] for item in rows[row]]
    assert len(items) == len(set(items)) and len(found) == 1


def test_rows_that_are_left_out_are_counted():
    epochs = Epochs(relations_of([(0, i) for i in range(1, 41)]), BatchSettings(10, unique=True), 0)
    assert epochs.left_out() == 36


classes = st.lists(st.integers(2, 12), min_size=1, max_size=12)


@given(counts=classes, batch_size=st.integers(2, 16), per_class=st.integers(2, 5), seed=seeds)
def test_every_member_is_in_one_batch_with_another_of_its_class(counts, batch_size, per_class, seed):
    label = random(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    sampler = ByClass(label, batch_size, per_class)
    found = batches(sampler.plan(random(seed)))
    assert len(found) == sampler.batches
    assert sorted(row for batch in found for row in batch) == list(range(len(label)))
    for batch in found:
        assert batch
        _, members = np.unique(label[batch], return_counts=True)
        assert members.min() >= 2


def test_a_batch_has_two_classes_where_there_are_two():
    found = batches(ByClass(np.repeat(np.arange(2), 40), 8, 8).plan(random(0)))
    assert len(found) == 10
    for batch in found:
        assert np.bincount(np.repeat(np.arange(2), 40)[batch]).tolist() == [4, 4]


def test_batches_have_about_the_configured_classes_and_members():
    label = np.repeat(np.arange(100), 40)
    found = batches(ByClass(label, 64, 4).plan(random(0)))
    sizes = [len(batch) for batch in found]
    assert len(found) == 63 and min(sizes) >= 56 and max(sizes) <= 72
    for batch in found:
        _, members = np.unique(label[batch], return_counts=True)
        assert len(members) >= 14
        assert np.median(members) == 4


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=20))
def test_pairs_are_of_one_class_and_all_that_have_another_are_in_one(rows):
    label, items = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    found, positive = pairs_within_classes(label, items)
    for row, other in zip(found, positive, strict=True):
        assert items[row] != other
        assert (label[row], other) in rows
    for row, (name, number) in enumerate(rows):
        assert (row in found) == any(a == name and b != number for a, b in rows) or rows.count((name, number)) > 1
    assert len(set(found.tolist())) == len(found)


def mixed(sizes: list[int], labelled: int | None = None) -> Relations:
    source = np.repeat(np.arange(len(sizes)), sizes)
    count = len(source)
    anchor, positive = np.arange(count), np.arange(count) + count
    if labelled is None:
        return Relations(anchor, positive, source=source)
    mine = source == labelled
    label = np.where(mine, np.arange(count) // 2, -1)
    return Relations(anchor, np.where(mine, -1, positive), label=label, source=source)


def epoch(epochs: Epochs, number: int) -> list[tuple[list[int], int | None]]:
    return [(rows.tolist(), source) for rows, source in (epochs.batch(number, k) for k in range(len(epochs)))]


@given(sizes=st.lists(st.integers(2, 40), min_size=2, max_size=4), batch_size=st.integers(2, 9), seed=seeds)
def test_without_weights_every_row_of_every_source_is_in_one_batch(sizes, batch_size, seed):
    relations = mixed(sizes)
    shares = [SourceShare(str(i)) for i in range(len(sizes))]
    epochs = Epochs(relations, BatchSettings(batch_size, shares=shares), seed)
    for number in range(2):
        found = epoch(epochs, number)
        assert sorted(row for rows, _ in found for row in rows) == list(range(sum(sizes)))
        for rows, source in found:
            assert {int(relations.source[row]) for row in rows} == {source}


def test_temperature_one_is_one_pass_over_each_whatever_the_batch_sizes():
    shares = [SourceShare("a", batch_size=5), SourceShare("b", batch_size=20)]
    found = epoch(Epochs(mixed([97, 203]), BatchSettings(10, shares=shares, mix_temperature=1.0), 0), 0)
    assert sorted(row for rows, _ in found for row in rows) == list(range(300))


@pytest.mark.parametrize("one_source", [True, False])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_a_source_of_which_nothing_is_left_gives_nothing(one_source, temperature):
    relations = mixed([20, 0, 30])
    shares = [SourceShare("a"), SourceShare("empty"), SourceShare("c")]
    settings = BatchSettings(10, shares=shares, mix_temperature=temperature, one_source_per_batch=one_source)
    found = epoch(Epochs(relations, settings, 0), 0)
    assert len(found) == 5
    assert all(rows and source != 1 for rows, source in found)


@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=4),
    batch_size=st.integers(2, 12),
    weighted=st.booleans(),
    seed=seeds,
)
def test_batches_of_all_sources_are_of_equal_size_with_equal_shares(sizes, batch_size, weighted, seed):
    relations = mixed(sizes)
    shares = [SourceShare(str(i), weight=i + 1.0 if weighted else None) for i in range(len(sizes))]
    epochs = Epochs(relations, BatchSettings(batch_size, shares=shares, one_source_per_batch=False), seed)
    found = [rows for rows, _ in epoch(epochs, 1)]
    lengths = [len(rows) for rows in found]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 2 and max(lengths) <= max(3, batch_size)
    if not weighted:
        assert sorted(row for rows in found for row in rows) == list(range(sum(sizes)))
    for source in range(len(sizes)):
        counts = [int((relations.source[rows] == source).sum()) for rows in found]
        assert max(counts) - min(counts) <= len(sizes)


@given(
    counts=st.lists(st.integers(2, 9), min_size=2, max_size=8),
    pairs=st.integers(2, 60),
    batch_size=st.integers(6, 16),
    per_class=st.integers(2, 5),
    seed=seeds,
)
def test_batches_of_all_sources_leave_no_member_of_a_class_alone(counts, pairs, batch_size, per_class, seed):
    label = np.concatenate([np.full(pairs, -1), np.repeat(np.arange(len(counts)), counts)])
    rows = np.arange(len(label))
    relations = Relations(rows, np.where(label < 0, rows + 1000, -1), label=label, source=np.where(label < 0, 0, 1))
    shares = [SourceShare("pairs"), SourceShare("classes", items_per_class=per_class)]
    epochs = Epochs(relations, BatchSettings(batch_size, shares=shares, one_source_per_batch=False), seed)
    seen = []
    for number in range(2):
        for taken, _ in epoch(epochs, number):
            assert taken
            seen += taken
            _, members = np.unique([label[row] for row in taken if label[row] >= 0], return_counts=True)
            assert (members >= 2).all()
    assert sorted(seen) == sorted([*rows, *rows])


def test_one_that_is_alone_of_its_class_and_one_of_no_class_are_left_out():
    label = np.array([0, 0, 1, -1, 2, 2])
    epochs = Epochs(Relations(np.arange(6), np.full(6, -1), label=label), BatchSettings(6), 0)
    assert [sorted(rows) for rows, _ in epoch(epochs, 0)] == [[0, 1, 4, 5]]
    alone = Relations(np.arange(2), np.full(2, -1), label=np.array([0, 1]))
    assert len(Epochs(alone, BatchSettings(6), 0)) == 0


@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=4),
    batch_size=st.integers(2, 9),
    temperature=st.sampled_from([None, 1.0, 3.0]),
    one_source=st.booleans(),
    seed=seeds,
)
def test_small_sources_repeat_and_large_ones_go_on_in_the_next_epoch(sizes, batch_size, temperature, one_source, seed):
    shares = [SourceShare(str(i), weight=i + 1.0) for i in range(len(sizes))]
    settings = BatchSettings(batch_size, shares=shares, mix_temperature=temperature, one_source_per_batch=one_source)
    relations = mixed(sizes)
    epochs = Epochs(relations, settings, seed)
    seen = np.zeros(sum(sizes), int)
    for number in range(4):
        found = epoch(epochs, number)
        assert len(found) == len(epochs)
        for rows, _ in found:
            np.add.at(seen, rows, 1)
    # A row is seen once more than another of its source at the most: passes are whole.
    for source in range(len(sizes)):
        mine = seen[relations.source == source]
        assert mine.max() - mine.min() <= 1
        assert mine.max() > 0


def test_weights_are_shares_of_the_batches():
    shares = [SourceShare("a", weight=3.0), SourceShare("b", weight=1.0)]
    epochs = Epochs(mixed([400, 400]), BatchSettings(10, shares=shares), 0)
    sources = [source for _, source in epoch(epochs, 0)]
    assert (sources.count(0), sources.count(1)) == (60, 20)
    assert sources != sorted(sources)


@pytest.mark.parametrize(("temperature", "small"), [(1.0, 10), (2.0, 25), (1000.0, 50)])
def test_temperature_evens_the_shares_out(temperature, small):
    settings = BatchSettings(10, shares=[SourceShare("large"), SourceShare("small")], mix_temperature=temperature)
    epochs = Epochs(mixed([900, 100]), settings, 0)
    assert [source for _, source in epoch(epochs, 0)].count(1) == small


def test_sources_have_batch_sizes_of_their_own():
    shares = [SourceShare("a", batch_size=5), SourceShare("b")]
    found = epoch(Epochs(mixed([20, 20]), BatchSettings(10, shares=shares), 0), 0)
    assert {source: len(rows) for rows, source in found} == {0: 5, 1: 10}


def test_batches_of_all_sources_hold_their_shares():
    settings = BatchSettings(10, shares=[SourceShare("a"), SourceShare("b")], one_source_per_batch=False)
    relations = mixed([300, 100])
    for rows, source in epoch(Epochs(relations, settings, 0), 0):
        assert source is None
        assert 2 <= (relations.source[rows] == 1).sum() <= 3


def test_labelled_sources_are_taken_by_class():
    relations = mixed([20, 20], labelled=1)
    settings = BatchSettings(8, items_per_class=2, shares=[SourceShare("pairs"), SourceShare("classes")])
    for rows, source in epoch(Epochs(relations, settings, 0), 0):
        if source == 1:
            _, members = np.unique(relations.label[rows], return_counts=True)
            assert members.tolist() == [2] * (len(rows) // 2)


def test_epochs_and_seeds_differ():
    relations = mixed([30, 30])
    settings = BatchSettings(10, shares=[SourceShare("a"), SourceShare("b")])
    assert epoch(Epochs(relations, settings, 0), 0) == epoch(Epochs(relations, settings, 0), 0)
    assert epoch(Epochs(relations, settings, 0), 0) != epoch(Epochs(relations, settings, 0), 1)
    assert epoch(Epochs(relations, settings, 0), 0) != epoch(Epochs(relations, settings, 1), 0)


def test_few_classes_share_a_batch_whatever_their_sizes():
    """A batch of a single class has no negatives: 7, 7 and 8 members in batches of about 8."""
    label = np.repeat([0, 1, 2], [7, 7, 8])
    sampler = ByClass(label, 8, 4)
    for seed in range(20):
        plan = sampler.plan(np.random.default_rng(seed))
        assert all(len(np.unique(label[plan.batch(k)])) > 1 for k in range(len(plan.bounds) - 1))
