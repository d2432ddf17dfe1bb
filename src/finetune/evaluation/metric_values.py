"""The metrics of an evaluator: built from their names, or given as objects of any `torchmetrics.Metric`, and computed.

A metric gets those arguments of the evaluator that the parameters of its `update` name. Metrics of `finetune.metrics`
have a value for each case, and so have means of `torchmetrics.retrieval`; all others are one number, whose change has
no interval.

Shapes: N cases.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.retrieval.base import RetrievalMetric as TorchmetricsRetrieval

from finetune.errors import CheckFailed, FinetuneError, Problem, first_line
from finetune.evaluation.metric_names import metric_problems, parse_metric, report_name, unknown_metric
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

    def argument(self, name: str, metric: Metric) -> NDArray[Any]:
        """Return the argument of this name for a metric."""


@dataclass(frozen=True)
class ArrayInputs:
    """Arguments that are the same for all metrics, by name."""

    arrays: Mapping[str, NDArray[Any]]

    def argument(self, name: str, metric: Metric) -> NDArray[Any]:
        """Return the array of this name."""
        return self.arrays[name]


def retrieval_metrics(specs: Sequence[str | Metric], inputs: Sequence[str]) -> dict[str, Metric]:
    """Return ranking metrics by their names in reports; `specs` are names such as `nDCG@10`, and objects.

    `inputs` are the names of the arguments that the evaluator offers.

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

    return _by_name(specs, build, inputs)


def named_metrics(
    specs: Sequence[str | Metric], kinds: Sequence[type[PerCaseMetric]], inputs: Sequence[str]
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

    return _by_name(specs, build, inputs)


def _by_name(specs: Sequence[str | Metric], build: Callable[[str], Metric], inputs: Sequence[str]) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for spec in specs:
        metric = build(spec) if isinstance(spec, str) else _checked(spec, inputs)
        _compute_alone(metric)
        name = _name(metric)
        if name in metrics and not isinstance(spec, str):
            what = f"two metrics have the name {name} in the report."
            raise CheckFailed([Problem(_KEY, what, "Leave one out, or make a subclass with a `label` of its own.")])
        metrics.setdefault(name, metric)
    return metrics


def _name(metric: Metric) -> str:
    label = getattr(metric, "label", "") or type(metric).__name__
    return report_name(label, cut_off(metric), higher_is_better=metric.higher_is_better)


def cut_off(metric: Metric) -> int | None:
    """Return how many hits of a ranking a metric considers, None if it does not say."""
    k = getattr(metric, "k", None) or getattr(metric, "top_k", None)
    return k if isinstance(k, int) else None


def _checked(metric: Any, inputs: Sequence[str]) -> Metric:
    """Return a metric given as an object, after a check that it is one and that it can be updated.

    Raises:
        CheckFailed: it is no metric, or its `update` needs other arguments.
    """
    if not isinstance(metric, Metric):
        problems = list(metric_problems(_KEY, [metric])) if isinstance(metric, dict) else []
        what = f"{type(metric).__name__} is no torchmetrics.Metric."
        raise CheckFailed(problems or [Problem(_KEY, what, "Derive it from torchmetrics.Metric.")])
    missing = [name for name, is_required in _parameters(metric).items() if is_required and name not in inputs]
    if missing:
        what = f"update of {type(metric).__name__} needs {', '.join(missing)}, which this evaluation does not have."
        raise CheckFailed([Problem(_KEY, what, f"It has: {', '.join(inputs)}.")])
    if isinstance(metric, TorchmetricsRetrieval) and metric.aggregation == "mean":
        metric.aggregation = _per_query
    found: Metric = metric
    return found


def _compute_alone(metric: Metric) -> None:
    """Let a metric not wait for other processes: of a run, only the first one has the arguments of `update`."""
    for part in metric.modules():
        if isinstance(part, Metric):
            part.distributed_available_fn = _never


def _never() -> bool:
    return False


def _per_query(values_Q: Tensor, **_: Any) -> Tensor:
    """Replace the mean over the queries (Q,), which a metric of torchmetrics computes with `dim=None`."""
    return values_Q


def _parameters(metric: Metric) -> dict[str, bool]:
    """Return the parameters of `update`, and whether each is required."""
    return {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(metric.update).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def measure(metrics: Mapping[str, Metric], inputs: MetricInputs, offered: Sequence[str]) -> dict[str, Floats]:
    """Return the values `(N,)` of each metric, higher is better: of each case, or a single one.

    `offered` are the names of the arguments in `inputs`.

    Raises:
        FinetuneError: a metric cannot be computed from these inputs, or is not one number.
    """
    return {name: _measure_one(name, metric, inputs, offered) for name, metric in metrics.items()}


def _measure_one(name: str, metric: Metric, inputs: MetricInputs, offered: Sequence[str]) -> Floats:
    metric.reset()
    arguments = {
        wanted: torch.from_numpy(inputs.argument(wanted, metric)) for wanted in _parameters(metric) if wanted in offered
    }
    if isinstance(metric, PerCaseMetric):
        metric.update(**arguments)
        return _signed(metric, metric.per_case())
    try:
        metric.update(**{wanted: _as_float32(values) for wanted, values in arguments.items()})
        value = metric.compute()
    except FinetuneError:
        raise
    except Exception as error:
        # The metric may be anybody's code.
        advice = "Check its arguments in the config: they must fit the data of this evaluation."
        raise FinetuneError(f"the metric {name} cannot be computed: {first_line(error)}.", advice) from error
    finally:
        metric.reset()
    if (
        not isinstance(value, Tensor)
        or value.ndim > 1
        or (value.ndim == 1 and not isinstance(metric, TorchmetricsRetrieval))
    ):
        raise FinetuneError(f"the metric {name} is not one number.", "Name another, or average it: average=macro.")
    return _signed(metric, value)


def _as_float32(values: Tensor) -> Tensor:
    # The states of metrics of torchmetrics are float32.
    return values.float() if values.is_floating_point() else values


def _signed(metric: Metric, values: Tensor) -> Floats:
    """Return values such that higher is better; the name of a metric has a minus if they are negated."""
    values_N: Floats = values.detach().cpu().double().reshape(-1).numpy()
    return -values_N if metric.higher_is_better is False else values_N
