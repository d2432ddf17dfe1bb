"""Splits items, ideally sorted by length, into micro-batches.

Shapes: N items, R runs of adjacent items of equal length.
"""

from __future__ import annotations

import numpy as np

from finetune.data.arrays import Ints


def pack_greedy(lengths_N: Ints, budget: int) -> Ints:
    """Return where to cut items that are not padded: each part is as large as the budget allows."""
    ends_N = np.cumsum(lengths_N)
    cuts: list[int] = []
    start = 0
    while True:
        before = int(ends_N[start - 1]) if start else 0
        start = max(int(np.searchsorted(ends_N, before + budget, side="right")), start + 1)
        if start >= len(lengths_N):
            return np.array(cuts, dtype=np.int64)
        cuts.append(start)


def optimal_cuts(lengths_N: Ints, budget: int, call_cost: int, power: int = 1) -> Ints:
    """Return where to cut items that are padded to the longest of their part.

    An item costs the `power` of that longest length, a part the sum of its items and `call_cost`. Dynamic programming
    finds the cheapest cuts between items of different lengths; a part above the budget is cut again.
    """
    first_R = np.flatnonzero(np.diff(lengths_N, prepend=-1))
    bounds = np.append(first_R, len(lengths_N))
    cuts: list[int] = []
    for low, high, longest in _parts(lengths_N[first_R], bounds, budget, call_cost, power):
        items = int(bounds[high] - bounds[low])
        pieces = -(-items // max(1, budget // longest**power))
        cuts.extend(bounds[low] + np.linspace(0, items, pieces + 1).astype(np.int64)[1:])
    return np.array(cuts[:-1], dtype=np.int64)


def _parts(lengths_R: Ints, bounds: Ints, budget: int, call_cost: int, power: int) -> list[tuple[int, int, int]]:
    """Return the cheapest parts of R runs of equal lengths, as (first run, run after the last, longest)."""
    best = np.zeros(len(lengths_R) + 1)
    from_R = np.zeros(len(lengths_R) + 1, dtype=np.int64)
    for high in range(1, len(lengths_R) + 1):
        price = np.maximum.accumulate(lengths_R[:high][::-1])[::-1] ** power
        items = bounds[high] - bounds[:high]
        calls = -(-items // np.maximum(1, budget // price))
        cost = best[:high] + items * price + calls * call_cost
        from_R[high] = np.argmin(cost)
        best[high] = cost[from_R[high]]
    parts: list[tuple[int, int, int]] = []
    high = len(lengths_R)
    while high:
        low = int(from_R[high])
        parts.append((low, high, int(lengths_R[low:high].max())))
        high = low
    return parts[::-1]


def split(parts: list[Ints], count: int) -> list[Ints]:
    """Return at least `count` parts of the same items in the same order, by halving the largest."""
    parts = list(parts)
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda i: len(parts[i]))
        parts[largest : largest + 1] = np.array_split(parts[largest], 2)
    return parts
