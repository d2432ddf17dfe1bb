"""Checks Hydra's own node, of which only few keys may be set, because Hydra imports and calls what the others name."""

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
"""hydra.run.dir in the shipped train.yaml."""
GROUPS = ("hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/hydra_logging")
# Keys that Hydra writes while it composes.
_RECORDED = (
    "overrides",
    "runtime.choices",
    "runtime.config_sources",
    "runtime.cwd",
    "job.override_dirname",
    "job.config_name",
)
# Values of the shipped train.yaml for keys without effect.
_SHIPPED_SWEEP = {"sweep.dir": "${output_root}/${experiment}", "sweep.subdir": "."}


def is_complete(config: DictConfig) -> bool:
    """Return whether the `hydra` node has all parts that a run reads; `~hydra.run` or `++hydra=null` remove them."""
    parts = ("run", "sweep", "job", "runtime", "runtime.choices", "overrides")
    hydra = OmegaConf.select(config, "hydra", throw_on_resolution_failure=False)
    return isinstance(hydra, DictConfig) and all(
        isinstance(OmegaConf.select(hydra, part, throw_on_resolution_failure=False), DictConfig) for part in parts
    )


def folder_is_set(config: DictConfig) -> bool:
    """Return whether hydra.run.dir was changed from the shipped value, and from Hydra's own default."""
    folder = OmegaConf.to_container(config.hydra.run, resolve=False)["dir"]  # type: ignore[index, call-overload]
    return folder not in (DEFAULT_FOLDER, _expected(_trusted_choices(config))["run"]["dir"])


def check_hydra(config: DictConfig, overrides: list[str], *, multirun: bool) -> Iterator[Problem]:
    """Yield a problem for each key of the `hydra` node that may not be set and differs from the shipped files.

    The node is compared with one composed from Hydra's and the shipped files, not with a list of dangerous keys:
    logging, launchers, sweepers and callbacks are all built from names in it, and another version may build more.
    """
    choices = config.hydra.runtime.choices
    untrusted = [group for group in GROUPS if not _is_trusted(group, choices.get(group))]
    for group in untrusted:
        options = _trusted_options(group)
        advice = f"{did_you_mean(str(choices.get(group)), options)} {listing(options)}".strip()
        what = f"'{choices.get(group)}' is not an option of Hydra, of a plugin, or of finetune."
        yield Problem(group, what, advice)
    expected = _expected(_trusted_choices(config))
    skipped = [group.replace("hydra/", "") for group in untrusted]
    skipped += own_parts(config)  # which are checked against the classes that they name
    for key in _differences(OmegaConf.to_container(config.hydra, resolve=False), expected):
        if not _is_below(key, (*SETTABLE, *_RECORDED, *skipped)):
            yield from _refusal(key, config)
    recorded: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    if sorted([*recorded["hydra"], *recorded["task"]]) != sorted(overrides):
        yield Problem("hydra.overrides", "this is Hydra's record of the command line.", "Leave it out.")
    if multirun and folder_is_set(config):
        what = "each run of a sweep has its own folder."
        yield Problem("hydra.run.dir", what, "Leave it out; set their location with output_root=... and experiment=...")
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
    # Cached, because the runs of a sweep are checked one by one.
    return OmegaConf.to_container(_trusted().compose(list(choices)).hydra, resolve=False)


def _trusted_choices(config: DictConfig) -> tuple[str, ...]:
    """Return the choices of Hydra's groups that come with Hydra, a plugin or finetune, as overrides."""
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
            what = "paths are relative to the working directory, so a run does not change it."
            yield Problem(where, what, "Leave it out.")
    elif key in ("sweep.dir", "sweep.subdir"):
        if OmegaConf.to_container(config.hydra.sweep, resolve=False)[key[6:]] != _SHIPPED_SWEEP[key]:  # type: ignore
            what = "this has no effect: the runs of a sweep are in <output_root>/<experiment>, like all runs."
            yield Problem(where, what, "Set output_root=... or experiment=...")
    elif key == "sweeper.params":
        advice = "Write them after -m, as in -m seed=1,2,3; files can set them with hydra/sweeper=optuna only."
        yield Problem(where, "this has no effect: a grid consists of the values on the command line.", advice)
    else:
        what = "this part of Hydra's own settings cannot be changed: it could run arbitrary code."
        yield Problem(where, what, f"Keys of hydra that can be set: {', '.join(SETTABLE)}.")


def _value(config: DictConfig, key: str) -> object:
    """Return the value of a key of the node; None if it cannot be resolved, which is reported elsewhere."""
    return OmegaConf.select(config.hydra, key, throw_on_resolution_failure=False)


def _can_be_subfolder(value: object) -> bool:
    return value is None or (isinstance(value, str) and bool(value.strip(". ")) and not set(value) & set("/\\\0"))


def _differences(found: Any, expected: Any, at: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values differ; a node that only one side has counts as one key."""
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
