"""Checks a node of the config against the signature of what it builds, without importing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune.config.annotations import advice_for, evaluate_annotation, innermost_mismatch, mismatch
from finetune.config.rules import ARGUMENTS, FILLED, GROUPS, Group
from finetune.config.signatures import Signature, signature
from finetune.config.static_source import Definition, Opaque
from finetune.config.suggest import did_you_mean, nearest
from finetune.config.targets import is_under, resolve_target
from finetune.config.values import UNKNOWN
from finetune.errors import Problem


def check_node(node: dict[str, Any], key: str, group: str, is_inner: bool = False) -> Iterator[Problem]:
    """Yield the problems of a node with a `_target_`, and of the nodes inside it.

    Only the outermost node gets arguments from the run; inner nodes must be complete.
    """
    if node["_target_"] is UNKNOWN:
        return
    definition, problems = resolve_target(node["_target_"], group, f"{key}._target_")
    yield from problems
    if definition is not None:
        yield from _check_arguments(node, key, Group(()) if is_inner else GROUPS[group], definition)
    yield from (Problem(f"{key}.{name}", *_special(name)) for name in node if is_special(name) and name != "_target_")
    for name, value in node.items():
        yield from _check_inside(value, f"{key}.{name}", group)


def is_special(name: str) -> bool:
    """Return whether a key has the form of Hydra's special keys, such as `_partial_`."""
    return name.startswith("_") and name.endswith("_")


def parameter_names(target: object, group: str) -> list[str]:
    """Return the parameters of a target that a config can set; none if the source cannot be analyzed."""
    definition, _ = resolve_target(target, group, "")
    known = _signature(definition) if definition else None
    if known is None:
        return []
    return [name for name in known.parameters if not GROUPS[group].refusal(name)]


def refusal_of(name: str, target: object, group: str) -> tuple[str, str] | None:
    """Return why a parameter of a target cannot be set, and an alternative; None if it can be, or does not exist."""
    definition, _ = resolve_target(target, group, "")
    known = _signature(definition) if definition else None
    if known is None or name not in known.parameters:
        return None
    return GROUPS[group].refusal(name)


def filled_by_run(definition: Definition) -> dict[str, str]:
    """Return the required arguments that the run provides if the config does not, and which fact of the run each is."""
    known = _signature(definition)
    if known is None:
        return {}
    rules = _rules(definition, FILLED)
    return {name: fact for name, fact in rules.items() if name in known.parameters and known.parameters[name].required}


def _check_inside(value: Any, key: str, group: str) -> Iterator[Problem]:
    if isinstance(value, dict) and "_target_" in value:
        yield from check_node(value, key, group, is_inner=True)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _check_inside(inner, f"{key}.{name}", group)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _check_inside(inner, f"{key}.{index}", group)


def _check_arguments(node: dict[str, Any], key: str, group: Group, definition: Definition) -> Iterator[Problem]:
    known = _signature(definition)
    if known is None:
        return
    for name, value in node.items():
        if is_special(name):
            continue
        exists = name in known.parameters or name in group.given
        refusal = group.refusal(name) if exists else None
        if refusal:
            yield Problem(f"{key}.{name}", *refusal)
        elif name in known.parameters:
            yield from _check_value(value, f"{key}.{name}", name, known, definition)
        elif not known.is_open:
            yield _unknown(name, key, [word for word in known.parameters if not group.refusal(word)], definition)
    from_run = group.given | group.offered | filled_by_run(definition).keys()
    for name, parameter in known.parameters.items():
        if parameter.required and name not in node and name not in from_run:
            what = f"{definition.node.name} cannot be built without '{name}'."
            yield Problem(f"{key}.{name}", what, f"Add it: +{key}.{name}=...")


def _check_value(value: Any, key: str, name: str, known: Signature, definition: Definition) -> Iterator[Problem]:
    if _is_open(value):
        return
    parameter = known.parameters[name]
    annotation = _rules(definition, ARGUMENTS).get(name)
    if annotation is None:
        annotation = evaluate_annotation(parameter.annotation, parameter.scope)
    if mismatch(value, annotation) is None:
        return
    value, annotation, key = innermost_mismatch(value, annotation, key)
    wrong = mismatch(value, annotation)
    if wrong is not None:
        yield Problem(key, f"{wrong}.", advice_for(value, annotation, key))


def _unknown(name: str, key: str, parameters: list[str], definition: Definition) -> Problem:
    what = f"{definition.node.name} has no parameter '{name}'."
    if nearest(name, parameters):
        return Problem(f"{key}.{name}", what, did_you_mean(f"{key}.{name}", (f"{key}.{word}" for word in parameters)))
    has = f"It has: {', '.join(parameters)}." if parameters else "It has none."
    group = key.partition(".")[0]
    ways = f"~{key}.{name} removes it; your own file conf/{group}/NAME.yaml can hold only the keys that you want."
    return Problem(f"{key}.{name}", what, f"{has} {ways}")


def _special(name: str) -> tuple[str, str]:
    return f"'{name}' is not allowed in a config.", "Of Hydra's special keys only _target_ is."


def _signature(definition: Definition) -> Signature | None:
    try:
        return signature(definition)
    except Opaque:
        return None


def _rules(definition: Definition, table: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    for prefix, rules in table.items():
        if is_under(definition.name, (prefix,)):
            return rules
    return {}


def _is_open(value: Any) -> bool:
    # A value that is unknown, or contains an object to be built, cannot be checked against a plain type.
    if isinstance(value, dict):
        return "_target_" in value or any(map(_is_open, value.values()))
    if isinstance(value, list):
        return any(map(_is_open, value))
    return value is UNKNOWN
