"""Builds the objects of a checked config."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.arguments import is_special
from finetune.config.suggest import did_you_mean
from finetune.config.targets import allowed_prefixes, is_own, is_under, refusal
from finetune.errors import CheckFailed, Problem, first_line


def build(node: DictConfig | Mapping[str, Any], key: str, /, **runtime_arguments: Any) -> Any:
    """Build the object that a node describes, and those inside it; `key` is the node's key in the config.

    Unlike Hydra's `instantiate`, this checks every imported target, inner ones too, against the allow-list of its
    group, and every call against the real signature, and names the config's key in errors.
    Raises CheckFailed if a check fails, or a library refuses a value; other exceptions of the object are passed on.
    """
    return _build(_plain(node), key, runtime_arguments)


def build_offered(node: DictConfig, key: str, offered: Mapping[str, Any], /, **runtime_arguments: Any) -> Any:
    """Build the object of a node with those `offered` arguments that are parameters and not set by the node."""
    wanted = parameters_of(node, key)
    taken = {name: value for name, value in offered.items() if name in wanted and name not in node}
    return build(node, key, **runtime_arguments, **taken)


def parameters_of(node: DictConfig, key: str = "") -> frozenset[str]:
    """Return the parameter names of a node's target; `key`: its key, if it is detached from its config."""
    target = import_target(node["_target_"], f"{key or node._get_full_key(None)}._target_")
    return frozenset(inspect.signature(target).parameters)


def _plain(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _build(value: Any, key: str, runtime_arguments: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_build(item, f"{key}.{index}", {}) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    inner = {name: _build(item, f"{key}.{name}", {}) for name, item in value.items() if name != "_target_"}
    if "_target_" not in value:
        return inner
    target = import_target(value["_target_"], f"{key}._target_")
    _bind(target, key, inner, runtime_arguments)
    try:
        return target(**inner, **runtime_arguments)
    except ValueError as error:
        # A library refuses a value with it. In finetune's and in a user's own code it is a bug, with its traceback.
        if is_under(target.__module__, ("finetune",)) or is_own(target.__module__):
            raise
        raise CheckFailed([Problem(key, f"{target.__name__} refuses its arguments: {first_line(error)}.")]) from error


def import_target(name: object, place: str) -> Any:
    """Import a class or function, if the group of the key `place` may build it, by this name and by its definition.

    Raises CheckFailed if it may not, or if it does not exist.
    """
    group = place.partition(".")[0]
    prefixes = allowed_prefixes(group)
    if not isinstance(name, str) or not is_under(name, prefixes):
        raise CheckFailed([refusal(str(name), group, place)])
    module, _, attribute = name.rpartition(".")
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CheckFailed([Problem(place, f"{name} cannot be imported: {error}.")]) from error
    target = getattr(home, attribute, None)
    if target is None:
        raise CheckFailed([Problem(place, f"{module} has no '{attribute}'.", did_you_mean(attribute, vars(home)))])
    origin = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    if not (inspect.isclass(target) or inspect.isfunction(target)) or not is_under(origin, prefixes):
        raise CheckFailed([refusal(name, group, place, origin.strip("."))])
    return target


def _bind(target: Any, key: str, arguments: Mapping[str, Any], runtime_arguments: Mapping[str, Any]) -> None:
    problems = [
        Problem(f"{key}.{name}", f"'{name}' is not allowed in a config.") for name in arguments if is_special(name)
    ]
    problems += [
        Problem(f"{key}.{name}", "this is set by the run itself.", "Leave it out.")
        for name in arguments.keys() & runtime_arguments.keys()
    ]
    parameters = inspect.signature(target).parameters
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    problems += [
        Problem(f"{key}.{name}", f"{target.__name__} has no parameter '{name}'.", did_you_mean(name, parameters))
        for name in arguments
        if name not in parameters and not is_open and not is_special(name)
    ]
    try:
        inspect.signature(target).bind(**{**arguments, **runtime_arguments})
    except TypeError as error:
        if not problems:
            problems.append(Problem(key, f"{target.__name__} cannot be built: {error}."))
    if problems:
        raise CheckFailed(problems)
