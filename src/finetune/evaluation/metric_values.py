"""The metrics of an evaluator: built from their names, or given as objects of any `torchmetrics.Metric`, and computed.

A metric gets those arguments of the evaluator that the parameters of its `update` name. Metrics of `finetune.metrics`
have a value for each case, and so have means of `torchmetrics.retrieval`; all others are one number, whose change has
no interval.

Shapes: N cases.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.retrieval.base import RetrievalMetric as TorchmetricsRetrieval

from finetune.errors import CheckFailed, FinetuneError, Problem, first_line
from finetune.evaluation.metric_names import (
    no_input,
    no_metric,
    parse_metric,
    report_name,
    same_name,
    unknown_metric,
)
from finetune.evaluation.result import Floats
from finetune.metrics import (
    DCG,
    MAP,
    MRR,
    NDCG,
    F1AtK,
    HitRate,
    PerCaseMetric,
    PrecisionAtK,
    RecallAtK,
    RetrievalMetric,
    RPrecision,
)

_WITH_CUT_OFF: tuple[type[RetrievalMetric], ...] = (NDCG, DCG, RecallAtK, PrecisionAtK, HitRate, F1AtK, MRR, MAP)
_KEY = "evaluation.metrics"


class MetricInputs(Protocol):
    """What an evaluator offers to the `update` of its metrics."""

    @property
    def names(self) -> Collection[str]:
        """The names of the arguments."""

    def argument(self, name: str, metric: Metric) -> NDArray[Any]:
        """Return the argument of this name for a metric."""


@dataclass(frozen=True)
class ArrayInputs:
    """Arguments that are the same for all metrics, by name."""

    arrays: Mapping[str, NDArray[Any]]

    @property
    def names(self) -> Collection[str]:
        """The names of the arguments."""
        return self.arrays.keys()

    def argument(self, name: str, metric: Metric) -> NDArray[Any]:
        """Return the array of this name."""
        return self.arrays[name]


def retrieval_metrics(specs: Sequence[str | Metric], example: MetricInputs) -> dict[str, Metric]:
    """Return ranking metrics by their names in reports; `specs` are names such as `nDCG@10`, and objects.

    `example` are small arguments as the evaluator offers them, with which objects are tried.

    Raises:
        CheckFailed: there is no such metric, or an object cannot be used.
    """
    kinds: dict[str, Any] = {kind.label: kind for kind in _WITH_CUT_OFF}

    def build(name: str) -> Metric:
        kind, k = parse_metric(name)
        if k is None:
            return RPrecision()
        metric: Metric = kinds[kind](k=k)
        return metric

    return _by_name(specs, build, example, cut_off)


def named_metrics(
    specs: Sequence[str | Metric], kinds: Sequence[type[PerCaseMetric]], example: MetricInputs
) -> dict[str, Metric]:
    """Return metrics by their names in reports, see `retrieval_metrics`; `specs` are labels of `kinds`, and objects.

    Raises:
        CheckFailed: there is no such metric, or an object cannot be used.
    """
    by_label = {kind.label: kind for kind in kinds}

    def build(name: str) -> Metric:
        if name not in by_label:
            raise CheckFailed([unknown_metric(_KEY, name, [*by_label])])
        return by_label[name]()

    return _by_name(specs, build, example)


def _by_name(
    specs: Sequence[str | Metric],
    build: Callable[[str], Metric],
    example: MetricInputs,
    k_of: Callable[[Metric], int | None] | None = None,
) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for spec in specs:
        metric = build(spec) if isinstance(spec, str) else _checked(spec)
        label = getattr(metric, "label", "") or type(metric).__name__
        k = k_of(metric) if k_of else None
        name = report_name(label, k, higher_is_better=metric.higher_is_better)
        _compute_alone(metric)
        if not isinstance(spec, str):
            if name in metrics:
                raise CheckFailed([same_name(_KEY, name)])
            _try(name, metric, example)
        metrics.setdefault(name, metric)
    return metrics


def cut_off(metric: Metric) -> int | None:
    """Return how many hits of a ranking a metric considers, None if it does not say."""
    k = getattr(metric, "k", None) or getattr(metric, "top_k", None)
    return k if isinstance(k, int) else None


def _checked(metric: Any) -> Metric:
    """Return a metric given as an object, for which each query has a value where that is possible.

    Raises:
        CheckFailed: it is no metric.
    """
    if not isinstance(metric, Metric):
        raise CheckFailed([no_metric(_KEY, type(metric).__name__)])
    if isinstance(metric, TorchmetricsRetrieval) and metric.aggregation == "mean":
        metric.aggregation = _per_query
    found: Metric = metric
    return found


def _per_query(values_Q: Tensor, **_: Any) -> Tensor:
    """Replace the mean over the queries (Q,), which a metric of torchmetrics computes with `dim=None`."""
    return values_Q


def _compute_alone(metric: Metric) -> None:
    """Let a metric not wait for other processes: of a run, only the first one has the arguments of `update`."""
    for part in metric.modules():
        if isinstance(part, Metric):
            part.distributed_available_fn = _never


def _never() -> bool:
    return False


def _try(name: str, metric: Metric, example: MetricInputs) -> None:
    """Compute a metric on a small example, so that a mistake is found before anything is embedded.

    Raises:
        CheckFailed: it cannot be computed.
    """
    missing = [wanted for wanted, is_required in _parameters(metric).items() if is_required]
    missing = [wanted for wanted in missing if wanted not in example.names]
    if missing:
        raise CheckFailed([no_input(_KEY, type(metric).__name__, missing, example.names)])
    try:
        _measure_one(name, metric, example)
    except FinetuneError as error:
        raise CheckFailed([Problem(_KEY, error.what, error.advice)]) from error


def _parameters(metric: Metric) -> dict[str, bool]:
    """Return the parameters of `update`, and whether each is required."""
    return {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(metric.update).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def measure(metrics: Mapping[str, Metric], inputs: MetricInputs) -> dict[str, Floats]:
    """Return the values `(N,)` of each metric, higher is better: of each case, or a single one.

    Raises:
        FinetuneError: a metric cannot be computed from these inputs, or is not one number.
    """
    return {name: _measure_one(name, metric, inputs) for name, metric in metrics.items()}


def _measure_one(name: str, metric: Metric, inputs: MetricInputs) -> Floats:
    wanted = [each for each in _parameters(metric) if each in inputs.names]
    arguments = {each: torch.from_numpy(inputs.argument(each, metric)) for each in wanted}
    metric.reset()
    if isinstance(metric, PerCaseMetric) and type(metric).__module__.startswith("finetune."):
        metric.update(**arguments)
        return _signed(metric, metric.per_case())
    try:
        values = _values_of(metric, arguments)
    except Exception as error:
        # The metric may be anybody's code.
        advice = "Check its arguments in the config: they have to fit the data of this evaluation."
        raise FinetuneError(f"the metric {name} cannot be computed: {first_line(error)}.", advice) from error
    finally:
        metric.reset()
    if values is None:
        raise FinetuneError(f"the metric {name} is not one number.", "Choose one that is, as with average: macro.")
    return _signed(metric, values)


def _values_of(metric: Metric, arguments: Mapping[str, Tensor]) -> Tensor | None:
    """Return the value of a metric, or those of each case; None if it is something else, such as a curve."""
    if isinstance(metric, PerCaseMetric):
        metric.update(**arguments)
        return metric.per_case()
    # The states of metrics of torchmetrics are float32.
    metric.update(**{name: each.float() if each.is_floating_point() else each for name, each in arguments.items()})
    value = metric.compute()
    if not isinstance(value, Tensor):
        return None
    if isinstance(metric, TorchmetricsRetrieval) and metric.aggregation is _per_query:
        queries = len(np.unique(arguments["indexes"].numpy()))
        # With fewer values the metric has skipped queries, possibly others than for another model.
        return value if value.numel() == queries else value.mean()
    return value if value.numel() == 1 else None


def _signed(metric: Metric, values: Tensor) -> Floats:
    """Return values such that higher is better; the name of a metric has a minus if they are negated."""
    values_N: Floats = values.detach().cpu().double().reshape(-1).numpy()
    return -values_N if metric.higher_is_better is False else values_N
