"""How well scores tell right pairs from wrong ones, as one share for each pair; the mean of the shares is the metric.

Pairs of equal scores stand at the same threshold, as in scikit-learn.

Shapes: P pairs, T distinct scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def average_precision(score_P: Floats, right_P: Bools) -> Floats:
    """Mean over the right pairs of the precision at their score, as shares `(P,)`; 0 where none is right."""
    place_P, found_T, seen_T = _thresholds(score_P, right_P)
    share = len(right_P) / max(1, int(right_P.sum()))
    shares: Floats = np.where(right_P, (found_T / seen_T)[place_P], 0.0) * share
    return shares


def best_f1(score_P: Floats, right_P: Bools) -> tuple[Floats, float]:
    """The largest F1 of any threshold, as shares `(P,)`, and the threshold: pairs of at least that score are right.

    The threshold lies half-way to the next lower score. It is found on these pairs, so the F1 is a little flattered.
    """
    place_P, found_T, seen_T = _thresholds(score_P, right_P)
    f1_T = 2 * found_T / (seen_T + right_P.sum())
    best = int(f1_T.argmax())  # the highest threshold of equally good ones
    taken_P = place_P <= best
    distinct = np.unique(score_P)[::-1]
    threshold = (distinct[best] + distinct[min(best + 1, len(distinct) - 1)]) / 2
    # F1 is a quotient of means, 2 tp / (taken + right): its influence function has the mean 0.
    both_P, size_P = 2.0 * (taken_P & right_P), taken_P.astype(np.float64) + right_P
    shares: Floats = f1_T[best] + (both_P - f1_T[best] * size_P) / size_P.mean()
    return shares, float(threshold)


def _thresholds(score_P: Floats, right_P: Bools) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return the place of each score among the distinct ones, highest first; right pairs and pairs up to each."""
    _, place_P, count_T = np.unique(-score_P, return_inverse=True, return_counts=True)
    place_P = place_P.reshape(-1)
    found_T = np.bincount(place_P, weights=right_P, minlength=len(count_T)).cumsum()
    return place_P, found_T, count_T.cumsum().astype(np.float64)
