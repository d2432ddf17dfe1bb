"""Checks a config and reports all problems at once.

Nothing here imports what the config builds: mistakes are reported before the libraries are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from finetune.config.annotations import advice_for, format_value, mismatch
from finetune.config.arguments import check_node
from finetune.config.callbacks import callbacks_without_default
from finetune.config.compose import Composer, composer
from finetune.config.cross_checks import check_combinations
from finetune.config.file_checks import check_files, unfit_root
from finetune.config.hydra_errors import display_path
from finetune.config.hydra_node import check_hydra, folder_is_set, is_complete
from finetune.config.key_locations import add_locations, find_config_file, folders_of
from finetune.config.overrides import (
    apply_override,
    choice_problem,
    how_to_empty,
    is_group_choice,
    key_problem,
    parse,
    with_decimal_comma_advice,
)
from finetune.config.rules import GROUPS, KEYS
from finetune.config.suggest import did_you_mean
from finetune.config.values import UNKNOWN, own_parts, resolve_values
from finetune.errors import CheckFailed, Problem


def check(
    overrides: list[str], config_dir: Path | None = None, config_name: str = "train", *, multirun: bool = False
) -> DictConfig:
    """Compose the config, with its `hydra` node, and check it; raises CheckFailed with all problems."""
    config, problems = check_overrides(overrides, config_dir, config_name, multirun=multirun)
    if problems or config is None:
        raise CheckFailed(problems)
    return config


def check_overrides(
    overrides: list[str], config_dir: Path | None = None, config_name: str = "train", *, multirun: bool = False
) -> tuple[DictConfig | None, list[Problem]]:
    """Return the config and all problems; invalid overrides are left out of the config, to check the rest.

    The config is None if it cannot be composed at all. `multirun`: this is one of the runs of a sweep.
    """
    parsed, problems = parse(overrides)
    with composer(config_dir, config_name) as compositor:
        try:
            config: DictConfig | None = compositor.compose([str(override.input_line) for override in parsed])
        except CheckFailed:
            config, found = diagnose(parsed, compositor)
            problems += found
        problems = [with_decimal_comma_advice(problem, config) for problem in problems]
        if (unfit := unfit_root(config, compositor)) is not None:
            return None, [unfit, *(problems if config is None else [])]
        if config is not None:
            problems += check_config(config, compositor, multirun=multirun)
    return config, list(dict.fromkeys(problems))


def with_locations(
    problems: Iterable[Problem], overrides: list[str], config_dir: Path | None = None, config_name: str = "train"
) -> list[Problem]:
    """Return the problems, with file and line for keys that are set in a file."""
    with composer(config_dir, config_name) as compositor:
        config, _, _ = compositor.compose_valid(overrides)
        if config is None:
            return list(problems)
        return add_locations(problems, config, compositor)


def diagnose(overrides: list[Override], compositor: Composer) -> tuple[DictConfig | None, list[Problem]]:
    """Return the config of the valid overrides, and the problems of the others.

    Group choices are checked first, because they determine which keys exist.
    """
    choices = [override for override in overrides if is_group_choice(override, compositor)]
    wrong = [choice_problem(override, compositor) for override in choices]
    problems = [problem for problem in wrong if problem]
    good = [str(choice.input_line) for choice, problem in zip(choices, wrong, strict=True) if problem is None]
    config, good, found = compositor.compose_valid(good)
    problems += found
    if config is None:
        return None, problems
    tree: Any = OmegaConf.to_container(config, resolve=False)
    settings = []
    for override in (override for override in overrides if override not in choices):
        problem = key_problem(override, tree, compositor)
        if problem is None:
            apply_override(override, tree)
            settings.append(str(override.input_line))
        else:
            problems.append(problem)
    if settings:
        config, _, found = compositor.compose_valid([*good, *settings])
        problems += found
    return config, problems


def check_config(config: DictConfig, compositor: Composer, *, multirun: bool = False) -> list[Problem]:
    """Return all problems of a composed config: values, keys, targets and their arguments."""
    if not is_complete(config):
        return [Problem("hydra", "a part of Hydra's own settings is missing.", "Remove what changes hydra.")]
    tree, problems = resolve_values(config)
    problems += check_hydra(config, compositor.overrides, multirun=multirun)
    problems += _check_keys(tree, config)
    for group in GROUPS:
        problems += _check_group(group, tree, compositor)
    for part in own_parts(config):
        problems += _check_one(tree["hydra"][part], f"hydra.{part}", "sweep", [], compositor)
    problems += check_combinations(tree, folder_is_set=folder_is_set(config))
    in_files, explained = check_files(config, compositor)
    problems = [problem for problem in problems if problem.where not in explained]
    return [*in_files, *add_locations(problems, config, compositor)]


def _check_keys(tree: dict[str, Any], config: DictConfig) -> Iterator[Problem]:
    choices = {str(group): option for group, option in config.hydra.runtime.choices.items()}
    known = [*dict.fromkeys([*GROUPS, *(group for group in choices if "/" not in group), *KEYS])]
    for name in tree:
        if name in choices and name not in GROUPS:
            yield _without_package(name, str(choices[name]), config)
        elif name not in known and name != "hydra":
            advice = did_you_mean(name, known) or f"There are: {', '.join(known)}."
            yield Problem(name, f"there is no group or key '{name}'.", advice)
    for name, annotation in KEYS.items():
        if name not in tree:
            yield Problem(name, "this required key is missing.", f"It was deleted; set it with {name}=...")
        elif tree[name] is not UNKNOWN and (wrong := mismatch(tree[name], annotation)) is not None:
            yield Problem(name, f"{wrong}.", advice_for(tree[name], annotation, name))


def _without_package(group: str, option: str, config: DictConfig) -> Problem:
    """Return the problem of a file without '# @package _global_', whose keys are merged below its group and unused."""
    file = find_config_file(f"{group}/{option}", folders_of(config))
    where = display_path(file) if file else f"{group}={option}"
    if file and not file.read_text("utf-8").strip():
        return Problem(where, "this file is empty.", "Start it with the line '# @package _global_', followed by keys.")
    if not isinstance(config[group], DictConfig):
        return Problem(where, f"expected keys, found {format_value(OmegaConf.to_container(config)[group])}.")  # type: ignore
    what = f"its first line is not '# @package _global_', so its keys are below '{group}' and have no effect."
    return Problem(where, what, "Add that line at the top.")


def _check_group(group: str, tree: dict[str, Any], compositor: Composer) -> Iterator[Problem]:
    node: Any = tree.get(group)
    if node is UNKNOWN:
        return
    may_be_empty = GROUPS[group].named or GROUPS[group].optional
    if may_be_empty and group not in tree:
        yield Problem(group, "this group is required, even if it is empty.", how_to_empty(group, compositor))
    elif GROUPS[group].optional and node in ({}, None):
        return
    elif not GROUPS[group].named:
        yield from _check_one(node, group, group, [], compositor)
    elif node is not None and not isinstance(node, dict):
        yield Problem(group, f"expected a mapping of names to keys with a _target_, found {format_value(node)}.")
    else:
        nodes = node or {}
        for name, inner in nodes.items():
            siblings = [f"{group}.{other}" for other in nodes if other != name]
            yield from _check_one(inner, f"{group}.{name}", group, siblings, compositor)


def _check_one(node: Any, key: str, group: str, siblings: list[str], compositor: Composer) -> Iterator[Problem]:
    if isinstance(node, dict) and "_target_" in node:
        yield from check_node(node, key, group)
    elif isinstance(node, dict) and node:
        problem = callbacks_without_default(node, key, compositor) if group == "callbacks" else None
        if problem is None:
            advice = did_you_mean(key, siblings) or f"Set it with +{key}._target_=..."
            problem = Problem(key, "it has no _target_, which names what to build.", advice)
        yield problem
    elif GROUPS[group].named:
        if node is not UNKNOWN:
            yield Problem(key, f"expected keys with a _target_, found {format_value(node)}.", f"~{key} removes it.")
    elif node:
        yield Problem(key, f"expected keys with a _target_, found {format_value(node)}.")
    else:
        yield Problem(key, "a run needs one.", f"Choose one: {group}=...")
