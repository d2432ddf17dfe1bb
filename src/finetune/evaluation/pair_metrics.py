"""Metrics of scored pairs, as one share for each pair: correlations, average precision and the best F1.

The mean of the shares is the metric. Where the metric is not a mean, a share is the metric plus its influence function
(Hampel 1974, https://doi.org/10.1080/01621459.1974.10482962), so that the spread of the shares is that of a resample of
the pairs, and the paired bootstrap of means applies to these metrics too.

Shapes: P pairs, T distinct scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def pearson(left_P: Floats, right_P: Floats) -> Floats:
    """Return Pearson's coefficient of two lists `(P,)`, as shares `(P,)`; all 0 if one list is constant."""
    left_P, right_P = _centered(left_P), _centered(right_P)
    return _shares(left_P, right_P, left_P * right_P, left_P**2, right_P**2)


def spearman(left_P: Floats, right_P: Floats) -> Floats:
    """Return Spearman's coefficient of two lists `(P,)`, as shares `(P,)`; equal numbers get their mean rank.

    All shares are 0 if one list is constant.
    """
    left_P, right_P = np.asarray(left_P, np.float64), np.asarray(right_P, np.float64)
    rank_P, other_P = _centered(ranks(left_P) / len(left_P)), _centered(ranks(right_P) / len(right_P))

    def covariance(one_P: Floats, two_P: Floats, of_one_P: Floats, of_two_P: Floats) -> Floats:
        # A pair also shifts the ranks of the pairs above it, in both lists.
        product_P = one_P * two_P
        moved: Floats = product_P + _above(of_one_P, two_P) + _above(of_two_P, one_P) - 2 * product_P.mean()
        return moved

    return _shares(
        rank_P,
        other_P,
        covariance(rank_P, other_P, left_P, right_P),
        covariance(rank_P, rank_P, left_P, left_P),
        covariance(other_P, other_P, right_P, right_P),
    )


def ranks(values_P: Floats) -> Floats:
    """Return the rank of each number `(P,)`, from 1; equal numbers get their mean rank."""
    _, group_P, count_G = np.unique(values_P, return_inverse=True, return_counts=True)
    last_G = np.cumsum(count_G)
    middle: Floats = (last_G - (count_G - 1) / 2)[group_P.reshape(-1)]
    return middle


def _centered(values_P: Floats) -> Floats:
    centered: Floats = np.asarray(values_P, np.float64) - np.mean(values_P, dtype=np.float64)
    return centered


def _shares(left_P: Floats, right_P: Floats, both_P: Floats, left2_P: Floats, right2_P: Floats) -> Floats:
    """Return shares of covariance / sqrt(variance variance), from the shares of each of the three."""
    size = np.sqrt((left_P**2).mean() * (right_P**2).mean())
    # A list whose values differ only by rounding errors is constant.
    if not size or np.ptp(left_P) < 1e-12 or np.ptp(right_P) < 1e-12:
        return np.zeros(len(left_P))
    r = (left_P * right_P).mean() / size
    shares: Floats = r + both_P / size - r / 2 * (left2_P / left2_P.mean() + right2_P / right2_P.mean())
    return shares


def _above(values_P: Floats, weight_P: Floats) -> Floats:
    """Return for each pair the mean over all pairs of the weight of those with larger values; equal ones count half."""
    _, group_P = np.unique(values_P, return_inverse=True)
    sum_G = np.bincount(group_P.reshape(-1), weights=weight_P)
    above_G = sum_G.sum() - np.cumsum(sum_G) + sum_G / 2
    above: Floats = above_G[group_P.reshape(-1)] / len(values_P)
    return above


def average_precision(score_P: Floats, right_P: Bools) -> Floats:
    """Return the mean precision at the scores of the right pairs, as shares `(P,)`; 0 if no pair is right.

    Pairs of equal score have the same threshold, as in scikit-learn.
    """
    place_P, found_T, seen_T = _thresholds(score_P, right_P)
    share = len(right_P) / max(1, int(right_P.sum()))
    shares: Floats = np.where(right_P, (found_T / seen_T)[place_P], 0.0) * share
    return shares


def best_f1(score_P: Floats, right_P: Bools) -> tuple[Floats, float]:
    """Return the largest F1 of any threshold, as shares `(P,)`, and the threshold from which scores count as right.

    The threshold is half-way to the next lower score. It is chosen on the same pairs, so the F1 is slightly optimistic.
    """
    place_P, found_T, seen_T = _thresholds(score_P, right_P)
    f1_T = 2 * found_T / (seen_T + right_P.sum())
    best = int(f1_T.argmax())  # of equally good thresholds the highest
    predicted_P = place_P <= best
    distinct = np.unique(score_P)[::-1]
    threshold = (distinct[best] + distinct[min(best + 1, len(distinct) - 1)]) / 2
    # F1 is a quotient of means, 2 tp / (predicted + right): its influence function has the mean 0.
    both_P, size_P = 2.0 * (predicted_P & right_P), predicted_P.astype(np.float64) + right_P
    shares: Floats = f1_T[best] + (both_P - f1_T[best] * size_P) / size_P.mean()
    return shares, float(threshold)


def _thresholds(score_P: Floats, right_P: Bools) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return the index of each score among the distinct ones, highest first; and per threshold right and all pairs."""
    _, place_P, count_T = np.unique(-score_P, return_inverse=True, return_counts=True)
    place_P = place_P.reshape(-1)
    found_T = np.bincount(place_P, weights=right_P, minlength=len(count_T)).cumsum()
    return place_P, found_T, count_T.cumsum().astype(np.float64)
