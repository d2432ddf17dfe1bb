"""Names of metrics, such as `nDCG@10` and `R-precision`, and how their values are written; no heavy imports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
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


def report_name(label: str, k: int | None, *, higher_is_better: bool | None = True) -> str:
    """Return the name of a metric in reports; the leading minus of `-MeanSquaredError`: the values are negated.

    So higher is better for all values in a report.
    """
    sign = "-" if higher_is_better is False else ""
    return f"{sign}{label}@{k}" if k else f"{sign}{label}"


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


def metric_problems(key: str, names: Sequence[Any]) -> Iterator[Problem]:
    """Yield a problem for each invalid name, with the most similar valid one."""
    for name in names:
        if not isinstance(name, str):
            yield unknown_metric(key, name, _listed())
            continue
        kind, _, k = name.partition("@")
        if name in WHOLE or (kind in AT and re.fullmatch("[1-9][0-9]{0,6}", k)):
            continue
        if kind in AT or kind in WHOLE:
            advice = f"Write {kind}@10." if kind in AT else f"Write {kind}."
            yield Problem(key, f"the metric '{name}' needs a cut-off of 1 or more behind it, and no other.", advice)
            continue
        near = did_you_mean(name, [*(f"{each}@{k or 10}" for each in AT), *WHOLE])
        yield Problem(key, f"there is no metric '{name}'.", f"{near} There are: {', '.join(_listed())}.".strip())


def unknown_metric(key: str, name: Any, known: Sequence[str]) -> Problem:
    """Return the problem of a value that is not a name of a metric, with the most similar one and all of them."""
    near, listed = "", f"There are: {', '.join(known)}; or give any torchmetrics.Metric: {{_target_: ...}}."
    what = f"expected the name of a metric, found {name!r}."
    if isinstance(name, str):
        what, near = f"there is no metric '{name}'.", did_you_mean(name, known)
    return Problem(key, what, f"{near} {listed}".strip())


def no_metric(key: str, name: str) -> Problem:
    """Return the problem of a class that is no metric."""
    return Problem(key, f"{name} is not a torchmetrics.Metric.", "Derive it from torchmetrics.Metric.")


def no_input(key: str, name: str, missing: Iterable[str], offered: Iterable[str]) -> Problem:
    """Return the problem of a metric whose `update` has required parameters that an evaluation does not offer."""
    what = f"update of {name} needs {', '.join(missing)}, which this evaluation does not have."
    return Problem(key, what, f"It has: {', '.join(offered)}.")


def same_name(key: str, name: str) -> Problem:
    """Return the problem of a metric whose name in reports another one has."""
    what = f"two metrics have the name {name} in the report."
    return Problem(key, what, "Leave one out, or make a subclass with a `label` of its own.")


def _listed() -> list[str]:
    return [*(f"{each}@k" for each in AT), *WHOLE]
