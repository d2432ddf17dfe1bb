"""Names of ranking metrics, `nDCG@10` or `R-precision`, and how values of metrics are written; no heavy imports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from finetune.config.suggest import did_you_mean
from finetune.errors import CheckFailed, Problem

# Computed over the first k hits, as in nDCG@10.
AT = ("nDCG", "DCG", "recall", "precision", "hit_rate", "F1", "MRR", "MAP")
# Computed over as many hits as there are relevant documents.
WHOLE = ("R-precision",)


def format_value(value: Any) -> str:
    """Return the value of a metric with three decimals; a dash if it is not a number."""
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def format_change(change: Any) -> str:
    """Return the change of a metric, or a bound of its interval, with its sign; a dash if it is not a number."""
    return f"{change:+.3f}" if isinstance(change, int | float) else "-"


def parse_metric(name: str) -> tuple[str, int | None]:
    """Return the kind of a metric and its cut-off k, None if it has none.

    Raises:
        CheckFailed: there is no such metric.
    """
    problems = list(metric_problems("evaluation.metrics", [name]))
    if problems:
        raise CheckFailed(problems)
    kind, _, k = name.partition("@")
    return kind, int(k) if k else None


def metric_problems(key: str, names: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each invalid name, with the most similar valid one."""
    for name in names:
        kind, _, k = name.partition("@")
        if name in WHOLE or (kind in AT and re.fullmatch("[1-9][0-9]{0,6}", k)):
            continue
        if kind in AT or kind in WHOLE:
            advice = f"Write {kind}@10." if kind in AT else f"Write {kind}."
            yield Problem(key, f"the metric '{name}' needs a cut-off of 1 or more behind it, and no other.", advice)
            continue
        known = [*(f"{each}@{k or 10}" for each in AT), *WHOLE]
        listed = ", ".join([*(f"{each}@k" for each in AT), *WHOLE])
        yield Problem(key, f"there is no metric '{name}'.", did_you_mean(name, known) or f"There are: {listed}.")
