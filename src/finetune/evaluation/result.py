"""The result of one evaluator for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The metrics of one model, per case; items are row numbers.

    `per_query` maps names such as `nDCG@10` to one number for each case (a query, a pair, an item), or to a single one,
    the headline metric first; their mean is the metric, higher is better. `queries` are the items of each case: `(Q,)`,
    or `(Q, 2)` for pairs. `baselines` are means of the same metrics of methods without a model. `seconds` is the total
    time.
    """

    name: str
    headline: str
    per_query: dict[str, Floats]
    queries: Ints
    counts: dict[str, int]
    bootstrap_samples: int
    seconds: float
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def per_case_metric(self) -> str | None:
        """The headline metric, or else the first metric that has a number for each of the `queries`; None without."""
        names = [self.headline, *self.per_query]
        return next((name for name in names if len(self.per_query[name]) == len(self.queries)), None)

    @property
    def means(self) -> dict[str, float]:
        """The mean of each metric over the cases, by name."""
        return {metric: float(values.mean()) for metric, values in self.per_query.items()}
