"""Is a change of a mean real? A paired bootstrap over the queries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS_AT_ONCE = 2**22
_FEWEST = 6  # changes in the same direction that chance makes less often than once in 20
_FEW = 200  # changes of which the signs are drawn; of more the interval alone is as good
_SAME = 1e-12  # differences of rounding only
_SURE = 0.05
_TOLD = 1.96 + 0.84  # quantiles of the normal distribution: 95 % sure, and so in 80 % of all tries
_MOST_TIMES = 100  # more queries than these times those at hand are no advice


@dataclass(frozen=True)
class Change:
    """A metric before and after: its means, their difference with a 95 % interval, and the queries behind it.

    `p_value` is how often a mean as far from zero comes about where each change might as well go the other way; of
    many changes, for which the interval says as much, it is 0.
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
        """How many queries were measured."""
        return self.won + self.lost + self.tied

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero, and chance alone would do the same less often than once in 20.

        Of few queries, or few that changed, resampling alone errs more often than that: a mean of some changes in the
        same direction has an interval of one sign.
        """
        return (self.low > 0 or self.high < 0) and self.p_value <= _SURE

    @property
    def visible(self) -> float:
        """The smallest change that as many queries would show as certain in 80 % of all tries; see `more_queries`."""
        return _TOLD * self.standard_error

    def more_queries(self) -> int | None:
        """Roughly how many more queries would tell in 80 % of all tries, were the change as large as it looks.

        That is ((z_.975 + z_.80) sd / change)^2 - n, with sd the deviation of the differences of the n queries: the
        power of a paired test (Webber, Moffat and Zobel 2008, https://doi.org/10.1145/1458082.1458158). None where that
        says nothing: no change at all, or more than a hundred times the queries at hand.
        """
        if self.certain or not self.change:
            return None
        needed = math.ceil(self.queries * (self.visible / self.change) ** 2)
        return needed - self.queries if self.queries < needed <= _MOST_TIMES * self.queries else None

    def verdict(self, metric: str) -> str:
        """One line of plain words, as in `better: +0.081 nDCG@10, certain`."""
        if self.queries == 1:
            return f"{self.change:+.3f} {metric}, one number: what of it is chance cannot be told"
        if self.certain:
            return f"{'better' if self.change > 0 else 'worse'}: {self.change:+.3f} {metric}, certain"
        words = f"no visible change: {self.change:+.3f} {metric}"
        if 0 < self.won + self.lost < _FEWEST:
            return f"{words}, and only {self.won + self.lost} of {self.queries} queries changed, too few to tell"
        if self.low > 0 or self.high < 0:
            return f"{words}, which chance does in {self.p_value:.0%} of all tries with {self.won + self.lost} changes"
        if more := self.more_queries():
            return f"{words}, needs about {_round(more):,} more queries to tell"
        return f"{words}; a change of {self.visible:.3f} would be visible" if self.standard_error else words


def paired_change(before_Q: NDArray[np.floating], after_Q: NDArray[np.floating], samples: int, seed: int) -> Change:
    """The change of the mean with its 95 % interval over `samples` resamples of the queries, NaN of one.

    Both arrays are (Q,) of the same queries in the same order, Q >= 1. Memory is bounded.
    The expanded percentile interval of Hesterberg 2015 (https://doi.org/10.1080/00031305.2015.1089789): the quantiles
    are those that make up for resamples that spread less than samples do, and for the deviation being an estimate.
    With it goes Fisher's randomization test of the changes (Smucker, Allan and Carterette 2007,
    https://doi.org/10.1145/1321440.1321528).
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
        p_value=_by_chance(difference_Q[np.abs(difference_Q) > _SAME], samples, seed),
    )


def _spread(difference_Q: NDArray[np.float64], samples: int, seed: int) -> tuple[float, float, float]:
    """Return the ends of the interval of the mean, and its standard error."""
    from scipy.special import ndtr, stdtrit

    queries = len(difference_Q)
    if queries == 1:
        return math.nan, math.nan, 0.0  # one number says nothing of how it could have been otherwise
    tail = ndtr(math.sqrt(queries / (queries - 1)) * stdtrit(queries - 1, 0.025))
    low, high = np.quantile(_resampled_means(difference_Q, samples, seed), [tail, 1 - tail])
    return float(low), float(high), float(difference_Q.std(ddof=1) / math.sqrt(queries))


def _by_chance(change_C: NDArray[np.float64], samples: int, seed: int) -> float:
    """Return how often the sum of changes `(C,)` of random signs is as far from zero as theirs is; both tails."""
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
    """To one leading digit below 100 and two above: more would pretend to know."""
    digits = 1 if number < 100 else 2
    return max(1, int(float(f"{number:.{digits - 1}e}")))
