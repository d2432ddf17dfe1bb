"""Which names a config may build, and what they are, told from source text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from finetune.config.rules import EXTRAS, GROUPS, INSTEAD, MOVED
from finetune.config.static_source import Definition, NotThere, Opaque, class_attribute, define
from finetune.config.suggest import did_you_mean
from finetune.errors import Problem

ALLOW = "FINETUNE_ALLOW"


def is_under(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def allowed_prefixes(group: str) -> tuple[str, ...]:
    """The dotted names under which a group's nodes must be defined.

    A user's own come from the environment, never from a config: a config can come from anywhere.
    """
    shipped = GROUPS[group].prefixes if group in GROUPS else ()
    return (*shipped, *_own())


def is_own(name: str) -> bool:
    """Whether a dotted name is of a user's own code, which the environment allows."""
    return is_under(name, _own())


def _own() -> tuple[str, ...]:
    own = (prefix.strip().rstrip(".") for prefix in os.environ.get(ALLOW, "").split(","))
    return tuple(filter(None, own))


def resolve(target: object, group: str, key: str) -> tuple[Definition | None, list[Problem]]:
    """What a `_target_` names and what is wrong with it; nothing for what only an import could tell."""
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return None, [Problem(key, f"expected the dotted name of a class, found {target!r}.", _what_is_allowed(group))]
    module, _, name = target.rpartition(".")
    if module in MOVED:
        return None, [Problem(key, f"{target} was renamed.", f"Write {MOVED[module]}.{name}.")]
    if not is_under(target, allowed_prefixes(group)):
        return None, [refusal(target, group, key)]
    try:
        definition = define(target)
    except Opaque as answer:
        # Unknown is fine as long as it is unknown within what is allowed; build() looks at the real object.
        inside = is_under(answer.name, allowed_prefixes(group))
        return None, [] if inside else [refusal(target, group, key, answer.name)]
    except NotThere as answer:
        return None, [Problem(key, f"{answer}.", _how_to_have(target, answer))]
    problem = _unwanted(definition, target, group, key)
    return (None, [problem]) if problem else (definition, [])


def refusal(target: str, group: str, key: str, origin: str = "") -> Problem:
    """The answer to a name that the group may not build."""
    source = f" (it comes from {origin})" if origin and origin != target else ""
    return Problem(key, f"{group} may not build {target}{source}.", _what_is_allowed(group))


def _how_to_have(target: str, answer: NotThere) -> str:
    extra = EXTRAS.get(target.partition(".")[0])
    if extra and not answer.near:
        return f"Install it: pip install 'finetune[{extra}]'."
    listed = f"There are: {', '.join(answer.near)}." if answer.near else ""
    return did_you_mean(target, answer.near) or listed


def class_variable(node: Mapping[str, Any], name: str, group: str) -> object:
    """Return a class variable of what a node of a group would build, read from its source; None if there is none."""
    definition, _ = resolve(node.get("_target_"), group, "")
    return class_attribute(definition, name) if definition else None


def _unwanted(definition: Definition, target: str, group: str, key: str) -> Problem | None:
    if not is_under(definition.name, allowed_prefixes(group)):
        return refusal(target, group, key, definition.name)
    if definition.name in INSTEAD:
        why, use = INSTEAD[definition.name]
        return Problem(key, f"{definition.node.name} does not work here, because {why}.", f"Use {use}.")
    return None


def _what_is_allowed(group: str) -> str:
    shipped = GROUPS[group].prefixes[:1] if group == "trainer" else allowed_prefixes(group)
    names = [name if name.rpartition(".")[2][:1].isupper() else f"{name}.*" for name in shipped]
    return f"Allowed: {', '.join(names)}; for your own code set the environment variable {ALLOW}=your_package."
