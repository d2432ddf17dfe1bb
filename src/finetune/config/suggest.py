"""Suggestions for misspelled words and dotted keys."""

from __future__ import annotations

import math
from collections.abc import Iterable

MOST = 3  # suggestions in a message


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return a sentence with the candidates closest to the word; an empty text if none is close."""
    near = nearest(word, candidates)
    if not near:
        return ""
    return f"Did you mean {' or '.join(near)}?"


def nearest(word: str, candidates: Iterable[str]) -> list[str]:
    """Return up to three candidates close to the word, closest first; also compares the last parts of dotted keys."""
    # The limit grows with the length of the word, but one edit is always allowed.
    limit = max(1.7, len(word.rpartition(".")[2]) / 3)
    scored = sorted((_far(word, candidate, limit), candidate) for candidate in set(candidates))
    best = scored[0][0] if scored else 0.0
    return [candidate for far, candidate in scored if far <= min(limit, best + 0.5)][:MOST]


def edit_distance(a: str, b: str, limit: float = math.inf) -> float:
    """Return the number of insertions, deletions, substitutions and transpositions between two texts.

    Optimal string alignment (Damerau 1964, https://doi.org/10.1145/363958.363994). Infinite if it is above `limit`,
    which saves time.
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
        # A transposition depends on the last two rows.
        if min(row) > limit and min(last) > limit:
            return math.inf
        before, last = last, row
    return last[-1] if last[-1] <= limit else math.inf


def _far(word: str, candidate: str, limit: float) -> float:
    """Return the distance between the candidate and the word; infinite if it is above `limit`."""
    word, candidate = word.lower(), candidate.lower()
    whole = edit_distance(word, candidate, limit)
    place, _, leaf = word.rpartition(".")
    other_place, _, other_leaf = candidate.rpartition(".")
    # The right last part with a wrong prefix (lr for optimizer.lr) costs less than one edit, even less if the prefix
    # is misspelled only.
    part = edit_distance(leaf, other_leaf, limit)
    if part < math.inf:
        part += min(0.6, 0.3 * edit_distance(place, other_place, limit=2))
    # A part of a key (epochs for max_epochs) is only suggested if nothing is one edit away.
    half = 1.65 if _one_holds_other(leaf, other_leaf) else part
    return min(whole, part, half)


def _one_holds_other(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    return len(short) > 2 and (long.startswith(short) or long.endswith(short))
