"""The names of ranking metrics, `nDCG@10` or `R-precision`; nothing heavy, so that the check can use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from finetune.config.suggest import did_you_mean
from finetune.errors import CheckFailed, Problem

AT = ("nDCG", "DCG", "recall", "precision", "hit_rate", "F1", "MRR", "MAP")  # of the first k hits, as in nDCG@10
WHOLE = ("R-precision",)  # of as many hits as there are right documents


def parse_metric(name: str) -> tuple[str, int | None]:
    """Return what is measured and its cut-off k, `None` where it has none.

    Raises:
        CheckFailed: there is no such metric.
    """
    if problems := list(metric_problems("evaluation.metrics", [name])):
        raise CheckFailed(problems)
    kind, _, k = name.partition("@")
    return kind, int(k) if k else None


def metric_problems(key: str, names: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each name that is none, with the nearest that is."""
    for name in names:
        kind, _, k = name.partition("@")
        if name in WHOLE or (kind in AT and re.fullmatch("[1-9][0-9]{0,6}", k)):
            continue
        if kind in AT or kind in WHOLE:
            advice = f"Write {kind}@10." if kind in AT else f"Write {kind}."
            yield Problem(key, f"the metric '{name}' needs a cut-off of 1 or more behind it, and no other.", advice)
            continue
        known = [f"{word}@{k or 10}" for word in AT] + list(WHOLE)
        advice = did_you_mean(name, known) or f"There are: {', '.join([*(f'{word}@k' for word in AT), *WHOLE])}."
        yield Problem(key, f"there is no metric '{name}'.", advice)
