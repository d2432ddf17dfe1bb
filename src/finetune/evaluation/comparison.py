"""Comparison of two results on the same queries: the change of every metric, and the queries that changed most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.errors import FinetuneError
from finetune.evaluation.bootstrap import Change, paired_change
from finetune.evaluation.metric_names import format_change
from finetune.evaluation.result import Floats, Ints, Result


@dataclass(frozen=True)
class MetricChange:
    """One metric and its change."""

    metric: str
    change: Change


@dataclass(frozen=True)
class Comparison:
    """One evaluator before and after training; the headline metric is the first of the `rows`."""

    before: Result
    after: Result
    rows: list[MetricChange]

    @property
    def headline(self) -> Change:
        """The change of the metric that the run is judged by."""
        return self.rows[0].change

    @property
    def verdict(self) -> str:
        """The headline in plain words, and all other certain changes, unless they agree with a certain headline."""
        verdict = self.headline.verdict(self.rows[0].metric)
        others = [row for row in self.rows[1:] if row.change.certain]
        if self.headline.certain:
            others = [row for row in others if (row.change.change > 0) != (self.headline.change > 0)]
        for word, sign in (("worse", -1), ("better", 1)):
            rows = [row for row in others if row.change.change * sign > 0]
            if rows:
                changes = [f"{row.metric} {format_change(row.change.change)}" for row in rows]
                verdict += f"; certainly {word}: {', '.join(changes)}"
        return verdict

    @property
    def changes(self) -> Floats:
        """The change of each query, by the metric `per_case_metric` of the results; empty if there is none."""
        metric = self.after.per_case_metric
        if metric is None:
            return np.zeros(0)
        return self.after.per_query[metric] - self.before.per_query[metric]

    def gained(self, count: int) -> Ints:
        """Return the positions of the queries whose metric rose most, largest first, at most `count`."""
        return self._most(1, count)

    def lost(self, count: int) -> Ints:
        """Return the positions of the queries whose metric fell most, largest first, at most `count`."""
        return self._most(-1, count)

    def _most(self, sign: int, count: int) -> Ints:
        change_Q = sign * self.changes
        best = np.argsort(-change_Q, kind="stable")[:count]
        return best[change_Q[best] > 0]


def compare(before: Result, after: Result, seed: int = 0) -> Comparison:
    """Compare every metric of `after` with `before`, with paired-bootstrap intervals over the queries.

    Raises:
        FinetuneError: they are not of the same queries and metrics.
    """
    if not np.array_equal(before.queries, after.queries) or before.per_query.keys() != after.per_query.keys():
        raise FinetuneError(
            f"the results on {before.name} and {after.name} are not of the same queries and metrics.",
            "Evaluate both models on the same judgments with the same settings.",
        )
    rows = [
        MetricChange(metric, paired_change(before.per_query[metric], values, after.bootstrap_samples, seed))
        for metric, values in after.per_query.items()
    ]
    return Comparison(before, after, rows)
