"""Metrics of scored pairs: correlations of similarities and scores, and classification of pairs by similarity.

Their value is the mean of one share for each pair. Where the metric is not a mean, a share is the metric plus its
influence function (Hampel 1974, https://doi.org/10.1080/01621459.1974.10482962), so that the spread of the shares is
that of a resample of the pairs, and the paired bootstrap of means applies to these metrics too.

The states are the arguments of all updates, and the shares are computed from arrays on the CPU, in float64.

Shapes: P pairs, T distinct scores.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.errors import FinetuneError
from finetune.metrics.base import PerCaseMetric, concatenated

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class PairMetric(PerCaseMetric):
    """The base class of metrics of P pairs: a subclass defines the share of each pair in `shares`."""

    pair_preds: list[Tensor]
    pair_target: list[Tensor]
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("pair_preds", [], dist_reduce_fx="cat")
        self.add_state("pair_target", [], dist_reduce_fx="cat")

    def update(self, preds: Any, target: Any) -> None:
        """Add pairs: their predicted similarities `preds` (P,), and their right scores or classes `target` (P,).

        Raises:
            FinetuneError: the shapes are not (P,), or differ.
        """
        preds_P, target_P = self.to_rows(preds=preds, target=target)
        self.pair_preds.append(preds_P)
        self.pair_target.append(target_P)

    @abstractmethod
    def shares(self, preds_P: Floats, target_P: Floats) -> Floats:
        """Return the share `(P,)` of each pair, P > 0; their mean is the metric."""

    def values(self) -> Tensor:
        """Return the shares `(P,)` of the pairs of this process.

        Raises:
            FinetuneError: a number is not finite.
        """
        preds_P, target_P = self._arrays()
        shares_P = np.zeros(0)
        if len(preds_P):
            shares_P = self.shares(preds_P, target_P)
        return self.to_floats(torch.from_numpy(shares_P))

    def _arrays(self) -> tuple[Floats, Floats]:
        empty = self.to_floats([])
        preds_P = concatenated(self.pair_preds, empty).cpu().double().numpy()
        target_P = concatenated(self.pair_target, empty).cpu().double().numpy()
        bad = int((~np.isfinite(preds_P) | ~np.isfinite(target_P)).sum())
        if bad:
            raise FinetuneError(
                f"{type(self).__name__}: {bad:,} of {len(preds_P):,} pairs have a number that is not finite.",
                "Remove them, or check the model: it may have diverged.",
            )
        return preds_P, target_P


class Pearson(PairMetric):
    """Pearson's correlation of similarities and scores; 0 if one of them is constant.

    Example:
        >>> metric = Pearson()
        >>> metric.update(preds=[0.1, 0.4, 0.9], target=[1, 2, 3])
        >>> print(f"{metric.compute():.4f}")
        0.9897
    """

    label: ClassVar[str] = "Pearson"
    plot_lower_bound: float = -1.0

    def shares(self, preds_P: Floats, target_P: Floats) -> Floats:
        """Return the share `(P,)` of each pair."""
        left_P, right_P = preds_P - preds_P.mean(), target_P - target_P.mean()
        return _correlation(left_P, right_P, left_P * right_P, left_P**2, right_P**2)


class Spearman(PairMetric):
    """Spearman's correlation of similarities and scores: that of their ranks; equal numbers get their mean rank.

    0 if one of them is constant.

    Example:
        >>> metric = Spearman()
        >>> metric.update(preds=[0.1, 0.4, 0.9], target=[1, 3, 2])
        >>> print(f"{metric.compute():.4f}")
        0.5000
    """

    label: ClassVar[str] = "Spearman"
    plot_lower_bound: float = -1.0

    def shares(self, preds_P: Floats, target_P: Floats) -> Floats:
        """Return the share `(P,)` of each pair."""
        rank_P, other_P = _centered_ranks(preds_P), _centered_ranks(target_P)

        def covariance(one_P: Floats, two_P: Floats, of_one_P: Floats, of_two_P: Floats) -> Floats:
            # A pair also shifts the ranks of the pairs above it, in both lists.
            product_P = one_P * two_P
            moved: Floats = product_P + _above(of_one_P, two_P) + _above(of_two_P, one_P) - 2 * product_P.mean()
            return moved

        return _correlation(
            rank_P,
            other_P,
            covariance(rank_P, other_P, preds_P, target_P),
            covariance(rank_P, rank_P, preds_P, preds_P),
            covariance(other_P, other_P, target_P, target_P),
        )


class AveragePrecision(PairMetric):
    """Mean precision at the similarities of the positive pairs; 0 if no pair is positive. `target` is 0 or 1.

    Pairs of equal similarity have the same threshold, as in scikit-learn.

    Example:
        >>> metric = AveragePrecision()
        >>> metric.update(preds=[0.9, 0.8, 0.3], target=[1, 0, 1])
        >>> print(f"{metric.compute():.4f}")
        0.8333
    """

    label: ClassVar[str] = "AP"

    def shares(self, preds_P: Floats, target_P: Floats) -> Floats:
        """Return the share `(P,)` of each pair."""
        right_P = _positive(self, target_P)
        thresholds = _thresholds(preds_P, right_P)
        share = len(right_P) / max(1, int(right_P.sum()))
        precision_T = thresholds.found_T / thresholds.seen_T
        shares: Floats = np.where(right_P, precision_T[thresholds.place_P], 0.0) * share
        return shares


class ThresholdMetric(PairMetric):
    """A metric at the threshold of the similarity that is best for it; `target` is 0 or 1.

    The threshold is chosen on the same pairs, so the metric is slightly optimistic.
    """

    @abstractmethod
    def at_thresholds(self, found_T: Floats, seen_T: Floats, pairs: int) -> Floats:
        """Return the metric at each threshold, from the numbers of positive and of all pairs from it on upwards."""

    def threshold(self) -> float:
        """Return the similarity from which pairs of this process count as positive: half-way to the next lower one.

        Raises:
            FinetuneError: there are no pairs, or a number is not finite.
        """
        preds_P, target_P = self._arrays()
        if not len(preds_P):
            raise FinetuneError(f"{type(self).__name__}: there are no pairs.", "Call update first.")
        thresholds = _thresholds(preds_P, _positive(self, target_P))
        best, distinct_T = self._best(thresholds), thresholds.score_T
        return float((distinct_T[best] + distinct_T[min(best + 1, len(distinct_T) - 1)]) / 2)

    def _best(self, thresholds: _Thresholds) -> int:
        """Return the index of the best threshold, the highest of equally good ones."""
        return int(self.at_thresholds(thresholds.found_T, thresholds.seen_T, len(thresholds.place_P)).argmax())


class BestF1(ThresholdMetric):
    """The largest F1 of any threshold of the similarity; `target` is 0 or 1.

    The threshold is chosen on the same pairs, so the F1 is slightly optimistic; `threshold` returns it.

    Example:
        >>> metric = BestF1()
        >>> metric.update(preds=[0.9, 0.8, 0.3, 0.1], target=[1, 0, 1, 0])
        >>> metric.compute(), round(metric.threshold(), 2)
        (tensor(0.8000, dtype=torch.float64), 0.2)
    """

    label: ClassVar[str] = "F1"

    def at_thresholds(self, found_T: Floats, seen_T: Floats, pairs: int) -> Floats:
        """Return the F1 at each threshold."""
        f1_T: Floats = 2 * found_T / (seen_T + found_T[-1])
        return f1_T

    def shares(self, preds_P: Floats, target_P: Floats) -> Floats:
        """Return the share `(P,)` of each pair."""
        right_P = _positive(self, target_P)
        thresholds = _thresholds(preds_P, right_P)
        best = self._best(thresholds)
        f1 = 2 * thresholds.found_T[best] / (thresholds.seen_T[best] + thresholds.found_T[-1])
        predicted_P = thresholds.place_P <= best
        # F1 is a quotient of means, 2 tp / (predicted + right): its influence function has the mean 0.
        both_P, size_P = 2.0 * (predicted_P & right_P), predicted_P.astype(np.float64) + right_P
        shares: Floats = f1 + (both_P - f1 * size_P) / size_P.mean()
        return shares


class BestAccuracy(ThresholdMetric):
    """The largest share of pairs that a threshold of the similarity classifies correctly; `target` is 0 or 1.

    The threshold is chosen on the same pairs, so the accuracy is slightly optimistic; `threshold` returns it.

    Example:
        >>> metric = BestAccuracy()
        >>> metric.update(preds=[0.9, 0.8, 0.3, 0.1], target=[1, 1, 0, 1])
        >>> metric.compute(), round(metric.threshold(), 2)
        (tensor(0.7500, dtype=torch.float64), 0.55)
    """

    label: ClassVar[str] = "accuracy"

    def at_thresholds(self, found_T: Floats, seen_T: Floats, pairs: int) -> Floats:
        """Return the accuracy at each threshold."""
        wrong_T = (seen_T - found_T) + (found_T[-1] - found_T)
        accuracy_T: Floats = 1 - wrong_T / pairs
        return accuracy_T

    def shares(self, preds_P: Floats, target_P: Floats) -> Floats:
        """Return the share `(P,)` of each pair."""
        right_P = _positive(self, target_P)
        thresholds = _thresholds(preds_P, right_P)
        predicted_P = thresholds.place_P <= self._best(thresholds)
        correct_P: Floats = (predicted_P == right_P).astype(np.float64)
        return correct_P


def ranks(values_P: Floats) -> Floats:
    """Return the rank of each number `(P,)`, from 1; equal numbers get their mean rank."""
    _, group_P, count_G = np.unique(values_P, return_inverse=True, return_counts=True)
    last_G = np.cumsum(count_G)
    middle: Floats = (last_G - (count_G - 1) / 2)[group_P.reshape(-1)]
    return middle


def _centered_ranks(values_P: Floats) -> Floats:
    ranks_P = ranks(values_P) / len(values_P)
    centered: Floats = ranks_P - ranks_P.mean()
    return centered


def _correlation(left_P: Floats, right_P: Floats, both_P: Floats, left2_P: Floats, right2_P: Floats) -> Floats:
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


def _positive(metric: PairMetric, target_P: Floats) -> Bools:
    """Return which pairs are positive.

    Raises:
        FinetuneError: a number is neither 0 nor 1.
    """
    others = target_P[(target_P != 0) & (target_P != 1)]
    if len(others):
        raise FinetuneError(
            f"{type(metric).__name__}: {len(others):,} of {len(target_P):,} targets are neither 0 nor 1, as in "
            f"{others[0]:g}.",
            "Give 1 for positive pairs and 0 for the others.",
        )
    positive_P: Bools = target_P == 1
    return positive_P


class _Thresholds(NamedTuple):
    """The distinct scores, highest first, as thresholds; and the index of the score of each pair among them.

    `found_T` and `seen_T` are the numbers of positive and of all pairs from each threshold on upwards.
    """

    score_T: Floats
    found_T: Floats
    seen_T: Floats
    place_P: NDArray[np.int64]


def _thresholds(score_P: Floats, right_P: Bools) -> _Thresholds:
    negated_T, place_P, count_T = np.unique(-score_P, return_inverse=True, return_counts=True)
    place_P = place_P.reshape(-1)
    found_T = np.bincount(place_P, weights=right_P, minlength=len(count_T)).cumsum()
    return _Thresholds(-negated_T, found_T, count_T.cumsum().astype(np.float64), place_P)
