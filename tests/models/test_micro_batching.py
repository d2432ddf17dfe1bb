"""Parts are within the budget, contain every item once, and have the lowest cost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune.models.micro_batching import optimal_cuts, pack_greedy

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(sorted).map(np.array)


@given(LENGTHS, st.integers(1, 300))
def test_unpadded_parts_are_within_the_budget_and_none_could_take_the_next_item(lengths, budget):
    parts = np.split(lengths, pack_greedy(lengths, budget))
    assert np.array_equal(np.concatenate(parts), lengths)
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        # An item that alone is over the budget still has to be encoded, alone.
        assert part.sum() <= budget or len(part) == 1
        assert following is None or part.sum() + following[0] > budget


@given(LENGTHS, st.integers(1, 300), st.integers(0, 100))
def test_padded_parts_are_within_the_budget(lengths, budget, call_cost):
    parts = np.split(lengths, optimal_cuts(lengths, budget, call_cost))
    assert np.array_equal(np.concatenate(parts), lengths)
    for part in parts:
        assert len(part) * part[-1] <= budget or len(part) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7).map(sorted).map(np.array), st.integers(0, 20))
def test_the_padded_cut_is_optimal(lengths, call_cost):
    def cost(parts):
        return sum(len(part) * max(part) + call_cost for part in parts)

    n = len(lengths)
    every = [np.split(lengths, [i for i in range(1, n) if pattern >> (i - 1) & 1]) for pattern in range(2 ** (n - 1))]
    assert cost(np.split(lengths, optimal_cuts(lengths, 10_000, call_cost))) == min(map(cost, every))


def test_items_of_one_length_are_not_padded():
    assert optimal_cuts(np.array([3, 3, 5, 7, 7]), 100, 0).tolist() == [2, 3]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7).map(np.array), st.integers(0, 200), st.integers(1, 3))
def test_any_order_and_power(lengths, call_cost, power):
    """Items that are not sorted: parts are within the budget, and never cost more than one item each."""
    parts = np.split(lengths, optimal_cuts(lengths, 200, call_cost, power))
    assert np.array_equal(np.concatenate(parts), lengths)
    assert all(len(part) * part.max() ** power <= 200 or len(part) == 1 for part in parts)
    cost = sum(len(part) * int(part.max()) ** power + call_cost for part in parts)
    assert cost <= sum(int(length) ** power + call_cost for length in lengths)
