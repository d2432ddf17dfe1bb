"""Holds a config against everything it will have to fit, and answers with all that is wrong at once.

Nothing here imports what the config builds: a wrong word is answered before the libraries are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from finetune.config.annotations import complaint, hint, show
from finetune.config.arguments import check_node
from finetune.config.compose import Composer, composer
from finetune.config.overrides import apply, choice_problem, chooses, key_problem, parse
from finetune.config.rules import GROUPS, KEYS
from finetune.config.spelling import did_you_mean
from finetune.config.values import UNKNOWN, resolve
from finetune.errors import CheckFailed, Problem


def check(overrides: list[str], config_dir: Path | None = None, config_name: str = "train") -> DictConfig:
    """Compose the config, with its `hydra` node, and check all of it; raises CheckFailed with every problem found."""
    config, problems = look(overrides, config_dir, config_name)
    if problems or config is None:
        raise CheckFailed(problems)
    return config


def look(
    overrides: list[str], config_dir: Path | None = None, config_name: str = "train"
) -> tuple[DictConfig | None, list[Problem]]:
    """Every problem, and the config as far as it can be composed: wrong overrides are left out to see behind them."""
    parsed, problems = parse(overrides)
    with composer(config_dir, config_name) as compositor:
        try:
            config: DictConfig | None = compositor.compose([str(override.input_line) for override in parsed])
        except CheckFailed:
            config, found = diagnose(parsed, compositor)
            problems += found
    if config is not None:
        problems += check_config(config)
    return config, list(dict.fromkeys(problems))


def diagnose(overrides: list[Override], compositor: Composer) -> tuple[DictConfig | None, list[Problem]]:
    """Which overrides keep the config from being composed, and the config that the others make.

    Choices come first, because they decide which keys there are.
    """
    choices = [override for override in overrides if chooses(override, compositor)]
    wrong = [choice_problem(override, compositor) for override in choices]
    problems = [problem for problem in wrong if problem]
    good = [str(choice.input_line) for choice, problem in zip(choices, wrong, strict=True) if problem is None]
    config, good, found = compositor.compose_what_can_be(good)
    problems += found
    if config is None:
        return None, problems
    tree: Any = OmegaConf.to_container(config, resolve=False)
    settings = []
    for override in (override for override in overrides if override not in choices):
        problem = key_problem(override, tree, compositor)
        if problem is None:
            apply(override, tree)
            settings.append(str(override.input_line))
        else:
            problems.append(problem)
    if settings:
        config, _, found = compositor.compose_what_can_be([*good, *settings])
        problems += found
    return config, problems


def check_config(config: DictConfig) -> list[Problem]:
    """Everything wrong with a composed config: values, keys, what its groups would build and with which arguments."""
    tree, problems = resolve(config)
    problems += _check_keys(tree)
    for group in GROUPS:
        problems += _check_group(group, tree)
    return problems


def _check_keys(tree: dict[str, Any]) -> Iterator[Problem]:
    for name in tree:
        if name not in KEYS and name not in GROUPS:
            advice = did_you_mean(name, [*KEYS, *GROUPS]) or f"There are: {', '.join([*GROUPS, *KEYS])}."
            yield Problem(name, f"there is no group or key '{name}'.", advice)
    for name, annotation in KEYS.items():
        if name not in tree:
            yield Problem(name, "this key is needed and is not there.", f"It was deleted; set it with {name}=...")
        elif tree[name] is not UNKNOWN and (wrong := complaint(tree[name], annotation)) is not None:
            yield Problem(name, f"{wrong}.", hint(tree[name], annotation, name))


def _check_group(group: str, tree: dict[str, Any]) -> Iterator[Problem]:
    node: Any = tree.get(group)
    if node is UNKNOWN:
        return
    if not GROUPS[group].named:
        yield from _check_one(node, group, group, [])
    elif node is not None and not isinstance(node, dict):
        yield Problem(group, f"expected names with what to build under each, found {show(node)}.")
    else:
        nodes = node or {}
        for name, inner in nodes.items():
            siblings = [f"{group}.{other}" for other in nodes if other != name]
            yield from _check_one(inner, f"{group}.{name}", group, siblings)


def _check_one(node: Any, key: str, group: str, siblings: list[str]) -> Iterator[Problem]:
    if isinstance(node, dict) and "_target_" in node:
        yield from check_node(node, key, group)
    elif isinstance(node, dict) and node:
        advice = did_you_mean(key, siblings) or f"Say it with +{key}._target_=..."
        yield Problem(key, "it does not say what to build (it has no _target_).", advice)
    elif GROUPS[group].named:
        if node is not UNKNOWN:
            yield Problem(key, f"expected keys with a _target_, found {show(node)}.", f"~{key} takes it out.")
    elif node:
        yield Problem(key, f"expected keys with a _target_, found {show(node)}.")
    else:
        yield Problem(key, "a run cannot do without one.", f"Choose one: {group}=...")
