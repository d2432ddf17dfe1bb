"""Every value of a composed config, interpolations resolved; those that cannot be had are named."""

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
"""Stands in the tree for a value that is missing or cannot be resolved."""

_RESOLVERS = (
    *("oc.env", "oc.select", "oc.decode", "oc.create", "oc.deprecated", "oc.dict.keys", "oc.dict.values"),
    *("now", "hydra"),
)
# Read when the run has its folder; everything else is read before, to check it or to decide on the folder.
_KNOW_THE_FOLDER = ("callbacks", "logger", "trainer")


def resolve(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """The config as plain dicts and lists, and a problem for each value that cannot be had.

    Of the `hydra` node only the directories are there, and what is ours of it; the rest is Hydra's own, and full of
    values that exist in a running job only.
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
    """Whether `hydra/sweeper` chose one of ours, whose node is checked and built like any of our groups."""
    return bool(config.hydra.runtime.choices.get("hydra/sweeper") == "optuna")


def has_own_launcher(config: DictConfig) -> bool:
    """Whether `hydra/launcher` chose a cluster, whose node is checked and built like any of our groups."""
    return bool(config.hydra.runtime.choices.get("hydra/launcher") == "slurm")


def own_parts(config: DictConfig) -> list[str]:
    """The parts of the `hydra` node that are ours."""
    ours = {"sweeper": has_own_sweeper, "launcher": has_own_launcher}
    return [part for part, is_ours in ours.items() if is_ours(config)]


def keys_of(tree: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a plain tree, nodes and leaves."""
    if not isinstance(tree, dict):
        return
    for name, value in tree.items():
        yield f"{prefix}{name}"
        yield from keys_of(value, f"{prefix}{name}.")


class _Walk:
    """Goes through a config leaf by leaf: OmegaConf's own walk stops at the first broken interpolation."""

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
            # Resolvers are code (a user's too) and raise what they like.
            raw = _raw(parent, name)
            if not _is_circle(error):
                self._named[key] = re.findall(r"\$\{([\w.]+)\}", raw)
            return self._unknown(key, *self._why(error, raw))
        if isinstance(value, DictConfig | ListConfig):
            return self._container(value, key, trail)
        if isinstance(value, str) and (unusable := _unusable(parent, name, key, value)):
            return self._unknown(key, *unusable)
        return value

    def _container(self, node: DictConfig | ListConfig, key: str, trail: tuple[str, ...]) -> Any:
        # An interpolation can lead to a node that we are in already.
        place = node._get_full_key(None)
        if place in trail:
            return self._unknown(key, f"the interpolation leads back to {place}, which holds it.")
        trail = (*trail, place)
        if isinstance(node, ListConfig):
            return [self.value(node, index, f"{key}.{index}", trail) for index in range(len(node))]
        return {str(name): self.value(node, name, f"{key}.{name!s}", trail) for name in node}

    def _unknown(self, key: str, what: str, advice: str = "") -> object:
        self._problems.append(Problem(key, what, advice))
        return UNKNOWN

    def _why(self, error: Exception, raw: str) -> tuple[str, str]:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, InterpolationToMissingValueError):
            advice = "Hydra sets it in sweeps of its own only." if "${hydra:" in raw else "Set that key."
            return f"'{raw}' leads to a key that has no value yet.", advice
        if _is_circle(error):
            return f"'{raw}' leads back to itself.", "Give a key of the circle a value of its own."
        if found := re.search(r"Environment variable '([^']*)' not found", first):
            return (
                f"'{raw}' cannot be resolved: the environment variable {found[1]} is not set.",
                f"Set it, or write ${{oc.env:{found[1]},default}}.",
            )
        if found := re.search(r"Interpolation key '([^']*)' not found", first):
            return f"'{raw}' names the key '{found[1]}', which is not there.", self._instead(found[1])
        if found := re.search(r"Unsupported interpolation type (\S+)", first):
            return f"'{raw}' names '{found[1]}', which is not a resolver.", did_you_mean(found[1], _RESOLVERS)
        return f"'{raw}' cannot be resolved: {first.rstrip('.')}.", ""

    def _instead(self, name: str) -> str:
        if name in os.environ:
            return f"An environment variable is written ${{oc.env:{name}}}."
        ours = [key for key in self._keys if key.startswith("hydra.") == name.startswith("hydra.")]
        return did_you_mean(name, ours)


def _unusable(parent: DictConfig | ListConfig, name: Any, key: str, value: str) -> tuple[str, str] | None:
    """What is wrong with a text that was resolved and still cannot be used, and what to do."""
    group, raw = key.partition(".")[0], _raw(parent, name)
    if group != "hydra" and (found := re.search(r"\$\{(hydra\.[\w.]+)\}", raw)):
        what = f"'{raw}' names '{found[1]}', and a run has Hydra's own settings elsewhere."
        return what, f"Write ${{hydra:{found[1].removeprefix('hydra.')}}}."
    if FOLDER_UNKNOWN_YET in value and group not in _KNOW_THE_FOLDER:
        what = f"'{raw}' needs the folder of the run, which is made after {group} was read."
        return what, f"Only {', '.join(_KNOW_THE_FOLDER)} can name it; elsewhere write a path."
    return None


def _is_circle(error: Exception) -> bool:
    return bool(re.search("Recursive interpolation|Interpolation to parent", str(error)))


def _raw(parent: DictConfig | ListConfig, name: Any) -> str:
    plain: Any = OmegaConf.to_container(parent, resolve=False)
    return str(plain[name])
