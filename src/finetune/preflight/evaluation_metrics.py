"""Checks of the metrics of an evaluator, named or given as objects, from source text without importing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from finetune.config.signatures import method_parameters, signature
from finetune.config.static_source import Definition, Opaque, class_attribute, derives_from
from finetune.config.targets import class_variable, is_own, is_under, resolve_target
from finetune.errors import Problem
from finetune.evaluation.metric_names import (
    metric_problems,
    no_input,
    no_metric,
    report_name,
    same_name,
    unknown_metric,
)

RETRIEVAL = "torchmetrics.retrieval"
_GROUP = "evaluation"


def check_metrics(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems of the metrics of an evaluator of finetune, whose key is `key`."""
    specs: Sequence[Any] = node.get("metrics") or []
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        return  # the check of the arguments reports it
    known = cast(tuple[str, ...], class_variable(node, "metric_names", _GROUP) or ())
    for index, spec in enumerate(specs):
        if isinstance(spec, Mapping) and "_target_" in spec:
            yield from _check_object(f"{key}.metrics.{index}", spec, node)
        elif known and spec not in known:
            yield unknown_metric(f"{key}.metrics", spec, known)
        elif not known:
            yield from metric_problems(f"{key}.metrics", [spec])
    if not any(isinstance(spec, Mapping) for spec in specs):
        return  # a name that is given twice is computed once
    for name, count in Counter(filter(None, metric_names(node) or ())).items():
        if count > 1:
            yield same_name(f"{key}.metrics", name)


def metric_names(node: Mapping[str, Any]) -> list[str | None]:
    """Return the names in reports of the metrics of an evaluator; None for one that only its code determines."""
    ranks = class_variable(node, "metric_package", _GROUP) == RETRIEVAL
    return [_name(spec, ranks=ranks) for spec in node.get("metrics") or []]


def _name(spec: Any, *, ranks: bool) -> str | None:
    if isinstance(spec, str):
        return spec
    definition, _ = resolve_target(spec.get("_target_"), _GROUP, "")
    if definition is None or is_own(definition.name):
        return None  # its constructor may set the attributes from which the name is made
    label = class_attribute(definition, "label") or definition.node.name
    k = spec.get("k") or spec.get("top_k")
    higher: Any = class_attribute(definition, "higher_is_better")
    return report_name(str(label), k if ranks else None, higher_is_better=higher)


def _check_object(key: str, spec: Mapping[str, Any], evaluator: Mapping[str, Any]) -> Iterator[Problem]:
    definition, _ = resolve_target(spec["_target_"], _GROUP, key)
    if definition is None:
        return  # the check of the config reports why
    try:
        yield from _check_class(key, spec, evaluator, definition)
    except Opaque:
        return  # only its import can show it: it is tried on a small example before the run embeds anything


def _check_class(
    key: str, spec: Mapping[str, Any], evaluator: Mapping[str, Any], definition: Definition
) -> Iterator[Problem]:
    name, package = definition.node.name, str(class_variable(evaluator, "metric_package", _GROUP))
    if not derives_from(definition, "torchmetrics.metric.Metric"):
        yield no_metric(f"{key}._target_", name)
        return
    if is_under(definition.name, ("torchmetrics",)) and not is_under(definition.name, (package,)):
        what = f"{name} does not measure what this evaluation computes."
        yield Problem(f"{key}._target_", what, f"Choose one of {package}.*, or your own.")
        return
    parameters = method_parameters(definition, "update").parameters
    offered = cast(tuple[str, ...], class_variable(evaluator, "metric_inputs", _GROUP) or ())
    missing = [each for each, parameter in parameters.items() if parameter.required and each not in offered]
    if missing:
        yield no_input(key, name, missing, offered)
    if is_own(definition.name) and not isinstance(class_attribute(definition, "higher_is_better"), bool):
        what = f"{name} does not define whether a higher value is better."
        yield Problem(key, what, "Add higher_is_better = True, or False, to the class.")
    cut_off = signature(definition).parameters.keys() & {"top_k", "max_k"}
    if is_under(definition.name, (RETRIEVAL,)) and cut_off and not any(spec.get(each) for each in cut_off):
        what = f"{name} needs a cut-off: an evaluation finds a limited number of documents for each query."
        yield Problem(key, what, f"Add {cut_off.pop()}: 10.")
