"""Correlations of two lists of numbers, as one share for each pair of numbers.

The mean of the shares is the coefficient, and their spread is what a resample of the pairs would change it by: each is
the coefficient and its influence function (Hampel 1974, https://doi.org/10.1080/01621459.1974.10482962). So the paired
bootstrap over means holds for coefficients too. Where one of the lists is constant, all shares are 0.

Shapes: P pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pearson(left_P: Floats, right_P: Floats) -> Floats:
    """Pearson's coefficient of two lists `(P,)`, as shares `(P,)`."""
    left_P, right_P = _centred(left_P), _centred(right_P)
    return _shares(left_P, right_P, left_P * right_P, left_P**2, right_P**2)


def spearman(left_P: Floats, right_P: Floats) -> Floats:
    """Spearman's coefficient of two lists `(P,)`, as shares `(P,)`; equal numbers have the mean of their ranks."""
    left_P, right_P = np.asarray(left_P, np.float64), np.asarray(right_P, np.float64)
    rank_P, other_P = _centred(ranks(left_P) / len(left_P)), _centred(ranks(right_P) / len(right_P))

    def together(one_P: Floats, two_P: Floats, of_one_P: Floats, of_two_P: Floats) -> Floats:
        # A pair also moves the ranks of the pairs above it, on either side.
        product_P = one_P * two_P
        moved: Floats = product_P + _above(of_one_P, two_P) + _above(of_two_P, one_P) - 2 * product_P.mean()
        return moved

    return _shares(
        rank_P,
        other_P,
        together(rank_P, other_P, left_P, right_P),
        together(rank_P, rank_P, left_P, left_P),
        together(other_P, other_P, right_P, right_P),
    )


def ranks(values_P: Floats) -> Floats:
    """The rank of each number `(P,)`, from 1; equal ones have the mean of their ranks."""
    _, group_P, count_G = np.unique(values_P, return_inverse=True, return_counts=True)
    last_G = np.cumsum(count_G)
    middle: Floats = (last_G - (count_G - 1) / 2)[group_P.reshape(-1)]
    return middle


def _centred(values_P: Floats) -> Floats:
    centred: Floats = np.asarray(values_P, np.float64) - np.mean(values_P, dtype=np.float64)
    return centred


def _shares(left_P: Floats, right_P: Floats, both_P: Floats, left2_P: Floats, right2_P: Floats) -> Floats:
    """Shares of covariance / sqrt(variance variance), from the shares of each of the three."""
    size = np.sqrt((left_P**2).mean() * (right_P**2).mean())
    # What only rounding makes differ is constant.
    if not size or np.ptp(left_P) < 1e-12 or np.ptp(right_P) < 1e-12:
        return np.zeros(len(left_P))
    r = (left_P * right_P).mean() / size
    shares: Floats = r + both_P / size - r / 2 * (left2_P / left2_P.mean() + right2_P / right2_P.mean())
    return shares


def _above(values_P: Floats, weight_P: Floats) -> Floats:
    """For each pair the mean weight of those with larger values, equal ones half, others counting as 0."""
    _, group_P = np.unique(values_P, return_inverse=True)
    sum_G = np.bincount(group_P.reshape(-1), weights=weight_P)
    above_G = sum_G.sum() - np.cumsum(sum_G) + sum_G / 2
    above: Floats = above_G[group_P.reshape(-1)] / len(values_P)
    return above
