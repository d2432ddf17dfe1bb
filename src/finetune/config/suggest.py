"""The nearest right spelling of a word or a dotted key."""

from __future__ import annotations

import math
from collections.abc import Iterable

MOST = 3  # suggestions in one answer; more would be a list to search, not help


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """One sentence with the candidates nearest to the word, or an empty text when none is near."""
    near = nearest(word, candidates)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def nearest(word: str, candidates: Iterable[str]) -> list[str]:
    """Up to three candidates near to the word, the nearest first; dotted keys are also compared by their last part."""
    # A short word has few letters to be recognised by, but one slip must always be forgiven.
    limit = max(1.7, len(word.rpartition(".")[2]) / 3)
    scored = sorted((_far(word, candidate, limit), candidate) for candidate in set(candidates))
    best = scored[0][0] if scored else 0.0
    return [candidate for far, candidate in scored if far <= min(limit, best + 0.5)][:MOST]


def edit_distance(a: str, b: str, limit: float = math.inf) -> float:
    """Letters to insert, delete, replace, or swap with their neighbour to turn one text into the other.

    Optimal string alignment (Damerau 1964, https://doi.org/10.1145/363958.363994). Infinite if it is above `limit`,
    which is faster than counting on.
    """
    if abs(len(a) - len(b)) > limit:
        return math.inf
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and other == a[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        # A swap reaches back two rows.
        if min(row) > limit and min(last) > limit:
            return math.inf
        before, last = last, row
    return last[-1] if last[-1] <= limit else math.inf


def _far(word: str, candidate: str, limit: float) -> float:
    """How far the candidate is from the word; infinite if that is above `limit`."""
    word, candidate = word.lower(), candidate.lower()
    whole = edit_distance(word, candidate, limit)
    place, _, leaf = word.rpartition(".")
    other_place, _, other_leaf = candidate.rpartition(".")
    # The right leaf in the wrong place (lr for optimizer.lr) is nearly as good as the right key with a slip in it, and
    # in a place that is one slip away it is better.
    part = edit_distance(leaf, other_leaf, limit)
    if part < math.inf:
        part += min(0.6, 0.3 * edit_distance(place, other_place, limit=2))
    # Half a key (epochs for max_epochs) is a guess: shown only when nothing is a single slip away.
    half = 1.65 if _one_holds_other(leaf, other_leaf) else part
    return min(whole, part, half)


def _one_holds_other(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    return len(short) > 2 and (long.startswith(short) or long.endswith(short))
