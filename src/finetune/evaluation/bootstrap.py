"""Significance of the change of a metric: a paired bootstrap over the queries, and a randomization test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.metric_names import format_change, format_value

_DRAWS_AT_ONCE = 2**22
_FEWEST = 6  # with fewer changes, all in the same direction, p is above 0.05
_FEW = 200  # with more changes the interval alone is as reliable as the randomization test
_SAME = 1e-12  # smaller differences are rounding errors
_ALPHA = 0.05  # significance level
_POWER_QUANTILES = 1.96 + 0.84  # of the normal distribution: significance level of 5 %, power of 80 %
_MOST_TIMES = 100  # advice to add more than this many times the present queries is useless


@dataclass(frozen=True)
class Change:
    """A metric before and after: its means, their difference with a 95 % interval, and counts of changed queries.

    `p_value` is that of Fisher's randomization test: how often random signs of the changes give a mean as far from
    zero. For many changes, where the interval is as reliable, it is not computed and 0.
    """

    mean_before: float
    mean_after: float
    change: float
    low: float
    high: float
    won: int
    lost: int
    tied: int
    standard_error: float
    p_value: float

    @property
    def queries(self) -> int:
        """The number of queries."""
        return self.won + self.lost + self.tied

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero, and the randomization test is significant at 5 %.

        With few queries, or few that changed, the interval alone is wrong more often than that: a few changes in the
        same direction always give an interval that excludes zero.
        """
        return (self.low > 0 or self.high < 0) and self.p_value <= _ALPHA

    @property
    def visible(self) -> float:
        """The smallest change that this many queries would show as certain with a power of 80 %, see `more_queries`."""
        return _POWER_QUANTILES * self.standard_error

    def more_queries(self) -> int | None:
        """Return how many more queries would be needed to show this change as certain, with a power of 80 %.

        That is ((z_.975 + z_.80) sd / change)^2 - n, with sd the standard deviation of the differences of the n
        queries: the power of a paired test (Webber, Moffat and Zobel 2008, https://doi.org/10.1145/1458082.1458158).
        None if that is not informative: without any change, or with more than a hundred times the present queries.
        """
        if self.certain or not self.change:
            return None
        needed = math.ceil(self.queries * (self.visible / self.change) ** 2)
        if self.queries < needed <= _MOST_TIMES * self.queries:
            return needed - self.queries
        return None

    def verdict(self, metric: str) -> str:
        """Return the change in plain words, as in `better: +0.081 nDCG@10, certain`."""
        change = f"{format_change(self.change)} {metric}"
        if self.queries == 1:
            return f"{change}, a single number: its significance cannot be tested"
        if self.certain:
            word = "better" if self.change > 0 else "worse"
            return f"{word}: {change}, certain"
        return f"no visible change: {change}{self._uncertainty()}"

    def _uncertainty(self) -> str:
        """Return why the change is not certain, or what would make it so, to append to a sentence."""
        changed = self.won + self.lost
        if 0 < changed < _FEWEST:
            return f", and only {changed} of {self.queries} queries changed, too few to be certain"
        if self.low > 0 or self.high < 0:
            return f", which random signs of the {changed} changes reach in {self.p_value:.0%} of all cases"
        more = self.more_queries()
        if more:
            return f", needs about {_round(more):,} more queries to be certain"
        if self.standard_error:
            return f"; a change of {format_value(self.visible)} would be visible"
        return ""


def paired_change(before_Q: NDArray[np.floating], after_Q: NDArray[np.floating], samples: int, seed: int) -> Change:
    """Return the change of the mean with its 95 % interval from `samples` resamples of the queries, NaN for one query.

    Both arrays are (Q,) of the same queries in the same order, Q >= 1. Memory is bounded. The interval is the expanded
    percentile interval of Hesterberg 2015 (https://doi.org/10.1080/00031305.2015.1089789): its quantiles correct for
    resamples varying less than samples, and for the standard deviation being an estimate. The p-value is that of
    Fisher's randomization test (Smucker, Allan and Carterette 2007, https://doi.org/10.1145/1321440.1321528).
    """
    difference_Q = after_Q.astype(np.float64) - before_Q.astype(np.float64)
    low, high, standard_error = _spread(difference_Q, samples, seed)
    won, lost = int((difference_Q > _SAME).sum()), int((difference_Q < -_SAME).sum())
    return Change(
        mean_before=float(before_Q.mean()),
        mean_after=float(after_Q.mean()),
        change=float(difference_Q.mean()),
        low=low,
        high=high,
        won=won,
        lost=lost,
        tied=len(difference_Q) - won - lost,
        standard_error=standard_error,
        p_value=_randomization_test(difference_Q[np.abs(difference_Q) > _SAME], samples, seed),
    )


def _spread(difference_Q: NDArray[np.float64], samples: int, seed: int) -> tuple[float, float, float]:
    """Return the bounds of the interval of the mean, and its standard error."""
    from scipy.special import ndtr, stdtrit

    queries = len(difference_Q)
    if queries == 1:
        return math.nan, math.nan, 0.0  # the variance of a single number is unknown
    tail = ndtr(math.sqrt(queries / (queries - 1)) * stdtrit(queries - 1, 0.025))
    low, high = np.quantile(_resampled_means(difference_Q, samples, seed), [tail, 1 - tail])
    return float(low), float(high), float(difference_Q.std(ddof=1) / math.sqrt(queries))


def _randomization_test(change_C: NDArray[np.float64], samples: int, seed: int) -> float:
    """Return how often changes `(C,)` with random signs have a sum as far from zero as their own; two-sided."""
    if len(change_C) > _FEW:
        return 0.0
    if len(change_C) < _FEWEST:
        return 1.0
    signs_SC = np.random.default_rng(seed).integers(2, size=(samples, len(change_C)), dtype=np.int8) * 2 - 1
    as_far = np.abs(signs_SC @ change_C) >= abs(change_C.sum()) * (1 - _SAME)
    return float(as_far.mean())


def _resampled_means(values_Q: NDArray[np.float64], samples: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(values_Q))
    sizes = [min(rows, samples - start) for start in range(0, samples, rows)]
    draws = (random.integers(len(values_Q), size=(size, len(values_Q)), dtype=np.int32) for size in sizes)
    return np.concatenate([values_Q[draw].mean(axis=1) for draw in draws])


def _round(number: int) -> int:
    """Round to one significant digit below 100 and to two above: the estimate is not more precise."""
    digits = 1 if number < 100 else 2
    return max(1, int(float(f"{number:.{digits - 1}e}")))
