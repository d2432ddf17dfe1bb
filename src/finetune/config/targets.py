"""Which dotted names a config may build, and what they refer to, determined from source text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from finetune.config.renames import current_target
from finetune.config.rules import EXTRAS, GROUPS, INSTEAD
from finetune.config.static_source import Definition, NotFound, Opaque, class_attribute, find_definition
from finetune.config.suggest import did_you_mean
from finetune.errors import Problem

ALLOW = "FINETUNE_ALLOW"


def is_under(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a dotted name is one of the prefixes or below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def allowed_prefixes(group: str) -> tuple[str, ...]:
    """Return the dotted names below which a group's targets must be defined.

    A user's own packages are read from the environment and never from a config, which may come from anyone.
    """
    shipped = GROUPS[group].prefixes if group in GROUPS else ()
    return (*shipped, *_own())


def is_own(name: str) -> bool:
    """Return whether a dotted name is in a user's own package, which the environment allows."""
    return is_under(name, _own())


def _own() -> tuple[str, ...]:
    own = (prefix.strip().rstrip(".") for prefix in os.environ.get(ALLOW, "").split(","))
    return tuple(filter(None, own))


def resolve_target(target: object, group: str, key: str) -> tuple[Definition | None, list[Problem]]:
    """Return the definition of a `_target_` and its problems; neither if only an import could determine them."""
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return None, [Problem(key, f"expected the dotted name of a class, found {target!r}.", _allowed(group))]
    new_name = current_target(target)
    if new_name != target:
        return None, [Problem(key, f"{target} was renamed.", f"Write {new_name}.")]
    if not is_under(target, allowed_prefixes(group)):
        return None, [refusal(target, group, key)]
    try:
        definition = find_definition(target)
    except Opaque as answer:
        # An undetermined definition is accepted within allowed packages; build() checks the real object.
        is_allowed = is_under(answer.name, allowed_prefixes(group))
        return None, [] if is_allowed else [refusal(target, group, key, answer.name)]
    except NotFound as answer:
        return None, [Problem(key, f"{answer}.", _advice_for_missing(target, answer))]
    problem = _unusable(definition, target, group, key)
    return (definition, []) if problem is None else (None, [problem])


def refusal(target: str, group: str, key: str, origin: str = "") -> Problem:
    """Return the problem of a target that the group may not build."""
    source = f" (it comes from {origin})" if origin and origin != target else ""
    return Problem(key, f"{group} may not build {target}{source}.", _allowed(group))


def _advice_for_missing(target: str, answer: NotFound) -> str:
    extra = EXTRAS.get(target.partition(".")[0])
    if extra and not answer.near:
        return f"Install it: pip install 'finetune[{extra}]'."
    if not answer.near:
        return ""
    return did_you_mean(target, answer.near) or f"There are: {', '.join(answer.near)}."


def class_variable(node: Mapping[str, Any], name: str, group: str) -> object:
    """Return a class variable of a node's target, read from its source; None if there is none."""
    definition, _ = resolve_target(node.get("_target_"), group, "")
    return class_attribute(definition, name) if definition else None


def _unusable(definition: Definition, target: str, group: str, key: str) -> Problem | None:
    if not is_under(definition.name, allowed_prefixes(group)):
        return refusal(target, group, key, definition.name)
    if definition.name in INSTEAD:
        why, use = INSTEAD[definition.name]
        return Problem(key, f"{definition.node.name} does not work here, because {why}.", f"Use {use}.")
    return None


def _allowed(group: str) -> str:
    shipped = GROUPS[group].prefixes[:1] if group == "trainer" else allowed_prefixes(group)
    names = [name if name.rpartition(".")[2][:1].isupper() else f"{name}.*" for name in shipped]
    return f"Allowed: {', '.join(names)}; for your own code set the environment variable {ALLOW}=your_package."
