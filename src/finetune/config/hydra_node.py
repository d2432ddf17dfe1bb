"""Hydra's own node: what of it may be set, because Hydra builds and calls whatever the rest of it names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import Composer, reference
from finetune.config.mishaps import listing
from finetune.config.spelling import did_you_mean
from finetune.config.values import own_parts
from finetune.errors import Problem

SETTABLE = ("run.dir", "sweep.dir", "sweep.subdir", "job.name", "output_subdir", "verbose", "searchpath", "mode")
GROUPS = ("hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/hydra_logging")
# What Hydra writes while it composes: what was typed, chosen and found where.
_RECORDED = (
    "overrides",
    "runtime.choices",
    "runtime.config_sources",
    "runtime.cwd",
    "job.override_dirname",
    "job.config_name",
)


def is_whole(config: DictConfig) -> bool:
    """Whether the `hydra` node still has the parts that a run reads; `~hydra.run` or `++hydra=null` take them away."""
    parts = ("run", "sweep", "job", "runtime", "runtime.choices", "overrides")
    hydra = OmegaConf.select(config, "hydra", throw_on_resolution_failure=False)
    return isinstance(hydra, DictConfig) and all(
        isinstance(OmegaConf.select(hydra, part, throw_on_resolution_failure=False), DictConfig) for part in parts
    )


def check_hydra(config: DictConfig, overrides: list[str]) -> Iterator[Problem]:
    """Everything in the `hydra` node that is neither settable nor as Hydra's and the shipped files alone make it.

    Held against a node composed from these files, not against a list of what is dangerous: logging, launchers,
    sweepers and callbacks are all built from names in it, and another version may build more.
    """
    choices = {group: config.hydra.runtime.choices.get(group) for group in GROUPS}
    strangers = [group for group, option in choices.items() if not _is_trusted(group, option)]
    for group in strangers:
        options = _trusted_options(group)
        advice = f"{did_you_mean(str(choices[group]), options)} {listing(options)}".strip()
        yield Problem(group, f"'{choices[group]}' comes neither with Hydra, nor with a plugin, nor with us.", advice)
    expected = _expected(tuple(f"{group}={option}" for group, option in choices.items() if group not in strangers))
    hidden = tuple(group.replace("hydra/", "") for group in strangers)
    hidden = (*hidden, *own_parts(config))  # which are held against the classes that they name
    for key in _differences(OmegaConf.to_container(config.hydra, resolve=False), expected):
        if not _is_below(key, (*SETTABLE, *_RECORDED, *hidden)):
            yield from _refusal(key, config)
    recorded: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    if sorted([*recorded["hydra"], *recorded["task"]]) != sorted(overrides):
        yield Problem("hydra.overrides", "this is Hydra's record of what was typed.", "Leave it out.")
    if config.hydra.mode == RunMode.MULTIRUN:
        yield Problem("hydra.mode", "this asks for several runs.", "Leave it out and add -m.")


@cache
def _trusted() -> Composer:
    return reference()


@cache
def _expected(choices: tuple[str, ...]) -> Any:
    # The points of a sweep are checked one by one and share this.
    return OmegaConf.to_container(_trusted().compose(list(choices)).hydra, resolve=False)


def _is_trusted(group: str, option: Any) -> bool:
    folder, _, name = f"{group}/{option}".rpartition("/")
    return isinstance(option, str) and name.removesuffix(".yaml") in _trusted_options(folder)


@cache
def _trusted_options(group: str) -> list[str]:
    return _trusted().options(group)


def _refusal(key: str, config: DictConfig) -> Iterator[Problem]:
    if key != "job.chdir":
        what = "this part of Hydra's own settings cannot be changed: code could be started through it."
        yield Problem(f"hydra.{key}", what, f"Of hydra.* there may be set: {', '.join(SETTABLE)}.")
    elif config.hydra.job.chdir:
        what = "paths are relative to the folder the command was typed in, so a run stays there."
        yield Problem("hydra.job.chdir", what, "Leave it out.")


def _differences(found: Any, expected: Any, at: str = "") -> Iterator[str]:
    """The dotted keys whose values differ, whole nodes where only one side has them."""
    if not (isinstance(found, dict) and isinstance(expected, dict)):
        if type(found) is not type(expected) or found != expected:
            yield at
        return
    for name in {**found, **expected}:
        key = f"{at}.{name}" if at else str(name)
        if name in found and name in expected:
            yield from _differences(found[name], expected[name], key)
        else:
            yield key


def _is_below(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)
