"""Cutting items, sorted by length, into micro-batches of a token budget.

Shapes: N items, L distinct lengths.
"""

from __future__ import annotations

import numpy as np

from finetune.data.arrays import Ints


def fill(lengths_N: Ints, budget: int) -> Ints:
    """Return where to cut items that are not padded: each part as full as the budget lets it be."""
    ends_N = np.cumsum(lengths_N)
    cuts: list[int] = []
    start = 0
    while True:
        before = int(ends_N[start - 1]) if start else 0
        start = max(int(np.searchsorted(ends_N, before + budget, side="right")), start + 1)
        if start >= len(lengths_N):
            return np.array(cuts, dtype=np.int64)
        cuts.append(start)


def cheapest(lengths_N: Ints, budget: int, call_cost: int) -> Ints:
    """Return where to cut items that are padded to the longest of their part, lengths ascending.

    The cheapest cut of all, found by dynamic programming over the distinct lengths: a part costs its padded tokens and
    `call_cost`, and one over the budget is cut again.
    """
    distinct_L, first_L = np.unique(lengths_N, return_index=True)
    bounds = np.append(first_L, len(lengths_N))
    cuts: list[int] = []
    for low, high in _runs(distinct_L, bounds, budget, call_cost):
        items = bounds[high] - bounds[low]
        parts = -(-items // max(1, budget // int(distinct_L[high - 1])))
        sizes = np.diff(np.linspace(0, items, parts + 1).astype(np.int64))
        cuts.extend(bounds[low] + np.cumsum(sizes))
    return np.array(cuts[:-1], dtype=np.int64)


def _runs(distinct_L: Ints, bounds: Ints, budget: int, call_cost: int) -> list[tuple[int, int]]:
    best = np.zeros(len(distinct_L) + 1)
    cut_at = np.zeros(len(distinct_L) + 1, dtype=np.int64)
    for high in range(1, len(distinct_L) + 1):
        longest = int(distinct_L[high - 1])
        items = bounds[high] - bounds[:high]
        calls = -(-items // max(1, budget // longest))
        cost = best[:high] + items * longest + calls * call_cost
        cut_at[high] = np.argmin(cost)
        best[high] = cost[cut_at[high]]
    runs: list[tuple[int, int]] = []
    high = len(distinct_L)
    while high:
        runs.append((int(cut_at[high]), high))
        high = int(cut_at[high])
    return runs[::-1]
