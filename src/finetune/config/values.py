"""Resolves all values of a composed config, and reports those that cannot be resolved."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from finetune.config.resolvers import FOLDER_UNKNOWN_YET
from finetune.config.suggest import did_you_mean
from finetune.errors import Problem

UNKNOWN = object()
"""Placeholder in the tree for a value that is missing or cannot be resolved."""

_RESOLVERS = (
    *("oc.env", "oc.select", "oc.decode", "oc.create", "oc.deprecated", "oc.dict.keys", "oc.dict.values"),
    *("now", "hydra"),
)
# Read after the run directory is created; all other groups are read before, by the check.
_CAN_USE_RUN_DIRECTORY = ("callbacks", "logger", "trainer")


def resolve_values(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """Return the config as plain dicts and lists, and a problem for each value that cannot be resolved.

    Of the `hydra` node it contains only the directories and finetune's own parts; many other values of the node exist
    in a running job only.
    """
    walk = _Walk(list(keys_of(OmegaConf.to_container(config, resolve=False))))
    tree = {str(name): walk.value(config, name, str(name), ()) for name in config if name != "hydra"}
    tree["hydra"] = {
        part: {"dir": walk.value(config.hydra[part], "dir", f"hydra.{part}.dir", ())} for part in ("run", "sweep")
    }
    for key in ("job.name", "job.chdir", "output_subdir", "verbose", "mode"):
        place, _, name = f"hydra.{key}".rpartition(".")
        walk.value(OmegaConf.select(config, place), name, f"hydra.{key}", ())
    for part in own_parts(config):
        tree["hydra"][part] = walk.value(config.hydra, part, f"hydra.{part}", ())
    return tree, walk.problems()


def has_own_sweeper(config: DictConfig) -> bool:
    """Return whether `hydra/sweeper` selects finetune's sweeper, whose node is checked and built like any group."""
    return bool(config.hydra.runtime.choices.get("hydra/sweeper") == "optuna")


def has_slurm_launcher(config: DictConfig) -> bool:
    """Return whether `hydra/launcher` selects SLURM, whose node is checked and built like any group."""
    return bool(config.hydra.runtime.choices.get("hydra/launcher") == "slurm")


def own_parts(config: DictConfig) -> list[str]:
    """Return the parts of the `hydra` node that belong to finetune."""
    ours = {"sweeper": has_own_sweeper, "launcher": has_slurm_launcher}
    return [part for part, is_ours in ours.items() if is_ours(config)]


def keys_of(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of a plain tree, of nodes and leaves."""
    if not isinstance(tree, dict):
        return
    for name, value in tree.items():
        yield f"{prefix}{name}"
        yield from keys_of(value, f"{prefix}{name}.")


class _Walk:
    """Resolves a config value by value, because OmegaConf stops at the first broken interpolation."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys
        self._problems: list[Problem] = []
        self._named: dict[str, list[str]] = {}  # what the interpolation of an unknown value names

    def problems(self) -> list[Problem]:
        """A problem for each unknown value, but not for one that only names another."""
        unknown = {problem.where for problem in self._problems}
        return [p for p in self._problems if not any(key in unknown for key in self._named.get(p.where, []))]

    def value(self, parent: DictConfig | ListConfig, name: Any, key: str, trail: tuple[str, ...]) -> Any:
        try:
            value = parent[name]
        except MissingMandatoryValue:
            return self._unknown(key, "has no value yet.", f"Set it: {key}=...")
        except Exception as error:
            # Resolvers are arbitrary code, possibly the user's, and can raise any exception.
            raw = _raw(parent, name)
            if not _is_circle(error):
                self._named[key] = re.findall(r"\$\{([\w.]+)\}", raw)
            return self._unknown(key, *self._why(error, raw))
        if isinstance(value, DictConfig | ListConfig):
            return self._container(value, key, trail)
        if isinstance(value, str):
            unusable = _unusable(parent, name, key, value)
            if unusable:
                return self._unknown(key, *unusable)
        return value

    def _container(self, node: DictConfig | ListConfig, key: str, trail: tuple[str, ...]) -> Any:
        # An interpolation can refer to a node that contains it.
        path = node._get_full_key(None)
        if path in trail:
            return self._unknown(key, f"the interpolation refers to {path}, which contains it.")
        trail = (*trail, path)
        if isinstance(node, ListConfig):
            return [self.value(node, index, f"{key}.{index}", trail) for index in range(len(node))]
        return {str(name): self.value(node, name, f"{key}.{name!s}", trail) for name in node}

    def _unknown(self, key: str, what: str, advice: str = "") -> object:
        self._problems.append(Problem(key, what, advice))
        return UNKNOWN

    def _why(self, error: Exception, raw: str) -> tuple[str, str]:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, InterpolationToMissingValueError):
            advice = "Hydra sets it only in its own sweeps." if "${hydra:" in raw else "Set that key."
            return f"'{raw}' refers to a key that has no value yet.", advice
        if _is_circle(error):
            return f"'{raw}' refers to itself.", "Set one of the keys in the cycle to a value."
        variable = re.search(r"Environment variable '([^']*)' not found", first)
        if variable:
            what = f"'{raw}' cannot be resolved: the environment variable {variable[1]} is not set."
            return what, f"Set it, or write ${{oc.env:{variable[1]},default}}."
        missing = re.search(r"Interpolation key '([^']*)' not found", first)
        if missing:
            return f"'{raw}' refers to the key '{missing[1]}', which does not exist.", self._instead(missing[1])
        resolver = re.search(r"Unsupported interpolation type (\S+)", first)
        if resolver:
            what = f"'{raw}' uses '{resolver[1]}', which is not a resolver."
            return what, did_you_mean(resolver[1], _RESOLVERS)
        return f"'{raw}' cannot be resolved: {first.rstrip('.')}.", ""

    def _instead(self, name: str) -> str:
        if name in os.environ:
            return f"An environment variable is written ${{oc.env:{name}}}."
        ours = [key for key in self._keys if key.startswith("hydra.") == name.startswith("hydra.")]
        return did_you_mean(name, ours)


def _unusable(parent: DictConfig | ListConfig, name: Any, key: str, value: str) -> tuple[str, str] | None:
    """Return the problem and the advice for a resolved text that cannot be used; None if it can."""
    group, raw = key.partition(".")[0], _raw(parent, name)
    hydra_key = re.search(r"\$\{(hydra\.[\w.]+)\}", raw)
    if group != "hydra" and hydra_key:
        what = f"'{raw}' refers to '{hydra_key[1]}', and Hydra's settings are not part of a run's config."
        return what, f"Write ${{hydra:{hydra_key[1].removeprefix('hydra.')}}}."
    if FOLDER_UNKNOWN_YET in value and group not in _CAN_USE_RUN_DIRECTORY:
        what = f"'{raw}' needs the run directory, which is created after {group} is read."
        return what, f"Only {', '.join(_CAN_USE_RUN_DIRECTORY)} can use it; write a path here."
    return None


def _is_circle(error: Exception) -> bool:
    return bool(re.search("Recursive interpolation|Interpolation to parent", str(error)))


def _raw(parent: DictConfig | ListConfig, name: Any) -> str:
    plain: Any = OmegaConf.to_container(parent, resolve=False)
    return str(plain[name])
