"""Finds the file and line that set a key of a composed config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import Composer, shipped_folder
from finetune.config.hydra_errors import display_path
from finetune.config.overrides import is_group_choice
from finetune.config.values import keys_of
from finetune.errors import Problem


def add_locations(problems: Iterable[Problem], config: DictConfig, composer: Composer) -> list[Problem]:
    """Return the problems, with file and line if their key is set in a file and not on the command line."""
    problems = list(problems)
    if not problems:
        return []
    typed = list(keys_of_overrides(composer))
    located = []
    for problem in problems:
        explained = _with_interpolation(problem, config)
        if not overlaps_any(problem.where, typed):
            location = _location(problem.where, composer.defaults(), folders_of(config))
            if location is not None:
                explained = replace(explained, what=f"{explained.what.removesuffix('.')} ({location}).")
        located.append(explained)
    return located


def _with_interpolation(problem: Problem, config: DictConfig) -> Problem:
    """Return the problem, with the interpolation that its value comes from, as the file does not show the value."""
    above, _, name = problem.where.rpartition(".")
    parent = OmegaConf.select(config, above, throw_on_resolution_failure=False) if above else config
    if not isinstance(parent, DictConfig) or name not in parent.keys():  # noqa: SIM118 - `in` denies missing values
        return problem
    if not OmegaConf.is_interpolation(parent, name):
        return problem
    raw = str(OmegaConf.to_container(parent, resolve=False)[name])  # type: ignore[index, call-overload]
    if raw in problem.what:
        return problem
    advice = problem.advice
    if raw.startswith("${oc.env:") and advice.startswith("Write the number"):
        advice = f'An environment variable is a text; as a number write "${{oc.decode:{raw}}}", with these quotes.'
    return replace(problem, what=f"{problem.what.removesuffix('.')} (from '{raw}').", advice=advice)


def folders_of(config: DictConfig) -> list[Path]:
    """Return the folders that were searched for groups, in order of precedence."""
    return [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]


def find_config_file(config_path: str, folders: Iterable[Path]) -> Path | None:
    """Return the file of a group's option, such as `recipe/mine`; None if there is none."""
    for folder in folders:
        file = folder / f"{config_path.removesuffix('.yaml')}.yaml"
        if file.is_file():
            return file
    return None


def keys_of_overrides(composer: Composer, *, deleted: bool = False) -> Iterator[str]:
    """Yield the keys that overrides set, and with `deleted` those that they delete."""
    for override in OverridesParser.create().parse_overrides(composer.overrides):
        if override.is_delete():
            if deleted:
                yield override.key_or_group
        elif not is_group_choice(override, composer):
            # optimizer={lr: 1} sets optimizer.lr and leaves its siblings to the file.
            inner = [f"{override.key_or_group}.{key}" for key in keys_of(override.value())]
            yield from inner or [override.key_or_group]


def overlaps_any(key: str, typed: Iterable[str]) -> bool:
    """Return whether a key, one inside it, or one that contains it is among the `typed` ones."""
    return any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in typed)


def _location(key: str, defaults: Iterable[ResultDefault], folders: list[Path]) -> str | None:
    """Return the file and line that set a key, or the user's own file that holds the whole group."""
    path = key.split(".")
    for default in reversed(list(defaults)):  # the last one that is merged wins
        package = default.package.split(".") if default.package else []
        if path[: len(package)] != package:
            continue
        file = find_config_file(default.config_path or "", folders)
        if file is None:
            continue
        if path == package:
            if not file.is_relative_to(shipped_folder()):
                return display_path(file)
            continue
        line = _line(parse_yaml(file), path[len(package) :])
        if line:
            return f"{display_path(file)}:{line}"
    return None


@cache
def parse_yaml(file: Path) -> yaml.Node | None:
    """Return the syntax tree of a YAML file."""
    node: yaml.Node | None = yaml.compose(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return node


def _line(node: yaml.Node | None, path: list[str]) -> int | None:
    """Return the line, from 1, of the key at the end of the path."""
    line = None
    for part in path:
        child = _child(node, part)
        if child is None:
            return None
        key, node = child
        line = key.start_mark.line + 1
    return line


def _child(node: yaml.Node | None, part: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the key and the value of an entry of a mapping, or the item of a list twice; None if there is none."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key, value
    elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item, item
    return None
