"""Which file, and which line of it, holds a key of a composed config."""

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
from finetune.config.hydra_errors import short
from finetune.config.overrides import chooses
from finetune.config.values import keys_of
from finetune.errors import Problem


def with_places(problems: Iterable[Problem], config: DictConfig, composer: Composer) -> list[Problem]:
    """The problems, with file and line where a key comes from a file and not from the command line."""
    problems = list(problems)
    typed = list(keys_typed(composer)) if problems else []
    files = composer.defaults() if any(not is_among(problem.where, typed) for problem in problems) else []
    found = []
    for problem in problems:
        place = None if is_among(problem.where, typed) else _place(problem.where, files, folders_of(config))
        explained = _with_interpolation(problem, config)
        found.append(replace(explained, what=f"{explained.what.removesuffix('.')} ({place}).") if place else explained)
    return found


def _with_interpolation(problem: Problem, config: DictConfig) -> Problem:
    """The problem, with the interpolation that its value comes from: what is found is not what is written there."""
    above, _, name = problem.where.rpartition(".")
    parent = OmegaConf.select(config, above, throw_on_resolution_failure=False) if above else config
    if not isinstance(parent, DictConfig) or name not in parent.keys():  # noqa: SIM118 - `in` denies missing values
        return problem
    if not OmegaConf.is_interpolation(parent, name):
        return problem
    raw = str(OmegaConf.to_container(parent, resolve=False)[name])  # type: ignore[index, call-overload]
    if raw in problem.what:
        return problem
    is_text = raw.startswith("${oc.env:") and problem.advice.startswith("Write the number")
    number = f'An environment variable is a text; as a number write "${{oc.decode:{raw}}}", with these quotes.'
    advice = number if is_text else problem.advice
    return replace(problem, what=f"{problem.what.removesuffix('.')} (from '{raw}').", advice=advice)


def folders_of(config: DictConfig) -> list[Path]:
    """The folders that were searched for groups, the first one that has a file wins."""
    return [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]


def find(config_path: str, folders: Iterable[Path]) -> Path | None:
    """The file of a group's option, such as `recipe/mine`."""
    files = (folder / f"{config_path.removesuffix('.yaml')}.yaml" for folder in folders)
    return next((file for file in files if file.is_file()), None)


def keys_typed(composer: Composer, *, deleted: bool = False) -> Iterator[str]:
    """The keys that overrides set, and those that they delete if these are wanted too."""
    for override in OverridesParser.create().parse_overrides(composer.overrides):
        if override.is_delete():
            yield from [override.key_or_group] if deleted else []
        elif not chooses(override, composer):
            # optimizer={lr: 1} sets optimizer.lr and leaves its siblings to the file.
            inner = [f"{override.key_or_group}.{key}" for key in keys_of(override.value())]
            yield from inner or [override.key_or_group]


def is_among(key: str, typed: Iterable[str]) -> bool:
    """Whether a key, one inside it, or one that it is inside was typed."""
    return any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in typed)


def _place(key: str, defaults: Iterable[ResultDefault], folders: list[Path]) -> str | None:
    # What is merged last wins.
    for default in reversed(list(defaults)):
        package = default.package.split(".") if default.package else []
        path = key.split(".")
        file = find(default.config_path or "", folders) if path[: len(package)] == package else None
        if file and path == package and not file.is_relative_to(shipped_folder()):
            return short(file)  # what the group is, it is by this file as a whole
        line = _line(parsed(file), path[len(package) :]) if file and path != package else None
        if file and line:
            return f"{short(file)}:{line}"
    return None


@cache
def parsed(file: Path) -> yaml.Node | None:
    """The syntax tree of a YAML file."""
    node: yaml.Node | None = yaml.compose(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return node


def _line(node: yaml.Node | None, path: list[str]) -> int | None:
    """The line on which the key at the end of the path stands, counted from 1."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            found = (node.value[int(part)],) * 2
        else:
            found = None
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line
