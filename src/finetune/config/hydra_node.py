"""Hydra's own node: what of it may be set, because Hydra builds and calls whatever the rest of it names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import Composer, reference
from finetune.config.hydra_errors import listing
from finetune.config.suggest import did_you_mean
from finetune.config.values import own_parts
from finetune.errors import Problem

SETTABLE = ("run.dir", "job.name", "output_subdir", "verbose", "searchpath", "mode")
DEFAULT_FOLDER = "${output_root}/${experiment}/${name}"
"""What hydra.run.dir is in the shipped train.yaml: the run is where these three keys say."""
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
# What the shipped train.yaml says of these, which have no effect.
_SHIPPED_SWEEP = {"sweep.dir": "${output_root}/${experiment}", "sweep.subdir": "."}


def is_whole(config: DictConfig) -> bool:
    """Whether the `hydra` node still has the parts that a run reads; `~hydra.run` or `++hydra=null` take them away."""
    parts = ("run", "sweep", "job", "runtime", "runtime.choices", "overrides")
    hydra = OmegaConf.select(config, "hydra", throw_on_resolution_failure=False)
    return isinstance(hydra, DictConfig) and all(
        isinstance(OmegaConf.select(hydra, part, throw_on_resolution_failure=False), DictConfig) for part in parts
    )


def folder_is_set(config: DictConfig) -> bool:
    """Whether hydra.run.dir gives the run a folder: it is neither as shipped, nor as in Hydra without our root."""
    folder = OmegaConf.to_container(config.hydra.run, resolve=False)["dir"]  # type: ignore[index, call-overload]
    return folder not in (DEFAULT_FOLDER, _expected(_trusted_choices(config))["run"]["dir"])


def check_hydra(config: DictConfig, overrides: list[str], *, multirun: bool) -> Iterator[Problem]:
    """Everything in the `hydra` node that is neither settable nor as Hydra's and the shipped files alone make it.

    Held against a node composed from these files, not against a list of what is dangerous: logging, launchers,
    sweepers and callbacks are all built from names in it, and another version may build more.
    """
    choices = config.hydra.runtime.choices
    strangers = [group for group in GROUPS if not _is_trusted(group, choices.get(group))]
    for group in strangers:
        options = _trusted_options(group)
        advice = f"{did_you_mean(str(choices.get(group)), options)} {listing(options)}".strip()
        what = f"'{choices.get(group)}' comes neither with Hydra, nor with a plugin, nor with us."
        yield Problem(group, what, advice)
    expected = _expected(_trusted_choices(config))
    hidden = tuple(group.replace("hydra/", "") for group in strangers)
    hidden = (*hidden, *own_parts(config))  # which are held against the classes that they name
    for key in _differences(OmegaConf.to_container(config.hydra, resolve=False), expected):
        if not _is_below(key, (*SETTABLE, *_RECORDED, *hidden)):
            yield from _refusal(key, config)
    recorded: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    if sorted([*recorded["hydra"], *recorded["task"]]) != sorted(overrides):
        yield Problem("hydra.overrides", "this is Hydra's record of what was typed.", "Leave it out.")
    if multirun and folder_is_set(config):
        what = "each run of a sweep has a folder of its own."
        yield Problem("hydra.run.dir", what, "Leave it out; output_root=... and experiment=... say where they are.")
    if not _can_be_subfolder(_value(config, "output_subdir")):
        what = "this is the name of a folder inside the run's folder, for Hydra's own record."
        yield Problem("hydra.output_subdir", what, "Write a name without slashes, as in hydra.output_subdir=.hydra")
    if _value(config, "mode") == RunMode.MULTIRUN and not multirun:
        yield Problem("hydra.mode", "this asks for several runs.", "Leave it out and add -m.")


@cache
def _trusted() -> Composer:
    return reference()


@cache
def _expected(choices: tuple[str, ...]) -> Any:
    # The points of a sweep are checked one by one and share this.
    return OmegaConf.to_container(_trusted().compose(list(choices)).hydra, resolve=False)


def _trusted_choices(config: DictConfig) -> tuple[str, ...]:
    """The choices of Hydra's groups that come with Hydra, with a plugin or with us, as overrides."""
    choices = {group: config.hydra.runtime.choices.get(group) for group in GROUPS}
    return tuple(f"{group}={option}" for group, option in choices.items() if _is_trusted(group, option))


def _is_trusted(group: str, option: Any) -> bool:
    folder, _, name = f"{group}/{option}".rpartition("/")
    return isinstance(option, str) and name.removesuffix(".yaml") in _trusted_options(folder)


@cache
def _trusted_options(group: str) -> list[str]:
    return _trusted().options(group)


def _refusal(key: str, config: DictConfig) -> Iterator[Problem]:
    where = f"hydra.{key}"
    if key == "job.chdir":
        if _value(config, key):
            what = "paths are relative to the folder the command was typed in, so a run stays there."
            yield Problem(where, what, "Leave it out.")
    elif key in ("sweep.dir", "sweep.subdir"):
        if OmegaConf.to_container(config.hydra.sweep, resolve=False)[key[6:]] != _SHIPPED_SWEEP[key]:  # type: ignore
            what = "this has no effect: the runs of a sweep are in <output_root>/<experiment>, as all runs are."
            yield Problem(where, what, "Set output_root=... or experiment=...")
    elif key == "sweeper.params":
        advice = "Type them behind -m, as in -m seed=1,2,3; files can name them with hydra/sweeper=optuna only."
        yield Problem(where, "this has no effect: a grid is of the values that are typed.", advice)
    else:
        what = "this part of Hydra's own settings cannot be changed: code could be started through it."
        yield Problem(where, what, f"Of hydra.* there may be set: {', '.join(SETTABLE)}.")


def _value(config: DictConfig, key: str) -> object:
    """The value of a key of the node; None if it cannot be resolved, which is reported with all values."""
    return OmegaConf.select(config.hydra, key, throw_on_resolution_failure=False)


def _can_be_subfolder(value: object) -> bool:
    return value is None or (isinstance(value, str) and bool(value.strip(". ")) and not set(value) & set("/\\\0"))


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
