"""Checks of the config files themselves, for mistakes that are no longer visible after merging."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import Composer, shipped_folder
from finetune.config.hydra_errors import display_path
from finetune.config.key_locations import find_config_file, folders_of, keys_of_overrides, overlaps_any, parse_yaml
from finetune.config.rules import GROUPS, KEYS
from finetune.errors import Problem

Keys = tuple[str, ...]


# Quick tests of a file's text, before it is parsed.
_A_DEMAND = re.compile(r"\?\?\?")
_A_DOTTED_KEY = re.compile(r"\w\.[\w.]+['\"]?\s*:")


class _Setting(NamedTuple):
    """A key of a file: its path in the config, its value, and its location (file:line)."""

    path: Keys
    value: yaml.Node
    place: str


def unfit_root(config: DictConfig | None, composer: Composer) -> Problem | None:
    """Return the problem of a root config, the user's or another program's, that lacks keys of the shipped one.

    `config` is None if it cannot be composed. Without this, every missing key would be reported.
    """
    root = composer.own_root
    if root is None:
        return None
    hiding = _hiding_the_shipped(root)
    if config is None and hiding is None and not (shipped_folder() / root.name).is_file():
        return None
    present: list[str] = []
    if config is not None:
        present = [*map(str, config), *keys_of_overrides(composer, deleted=True)]
    missing = [name for name in (*GROUPS, *KEYS) if name not in present]
    if not missing:
        return None
    if hiding is not None:
        what = f"its default 'train' is {display_path(hiding)}, which is not finetune's root config."
        advice = f"Rename {display_path(hiding)}, so that 'train' is finetune's root config."
        return Problem(display_path(root), what, advice)
    what = "this file replaces the root config of finetune"
    if config is None:
        what += ", and cannot be composed."
    else:
        what += f", and has no {', '.join(missing)}."
    if not (shipped_folder() / root.name).is_file():
        return Problem(display_path(root), what, "Start it with 'defaults: [train, _self_]'.")
    advice = (
        "If it belongs to another program, run finetune in another folder, or with --config-dir FOLDER.\n"
        "    If it is yours, give it another name, start it with 'defaults: [train, _self_]', and use "
        "--config-name NAME."
    )
    return Problem(display_path(root), what, advice)


def _hiding_the_shipped(root: Path) -> Path | None:
    """Return the user's train.yaml that shadows the shipped one in the defaults of another root config."""
    hiding = root.with_name("train.yaml")
    if root == hiding or not hiding.is_file():
        return None
    try:
        content = yaml.safe_load(root.read_text("utf-8"))
    except (ValueError, yaml.YAMLError):
        return None  # reported elsewhere
    defaults = content.get("defaults") if isinstance(content, dict) else None
    if not isinstance(defaults, list):
        return None
    names = [str(each).removesuffix(".yaml").lstrip("/") for each in defaults]
    return hiding if "train" in names else None


def check_files(config: DictConfig, composer: Composer) -> tuple[list[Problem], set[str]]:
    """Return the problems in the files of the last composed config, and the keys of the config that they explain."""
    dotted = dict(_dotted(config, composer))
    return [*dotted.values(), *_demanded(config, composer)], set(dotted)


def _demanded(config: DictConfig, composer: Composer) -> Iterator[Problem]:
    """Yield keys that a file marks as required with `???` and that nothing sets later.

    They are not visible after merging, which keeps an earlier value.
    """
    open_demands: dict[Keys, str] = {}
    for setting in _settings(config, composer, _A_DEMAND):
        is_a_demand = isinstance(setting.value, yaml.ScalarNode) and setting.value.value == "???"
        if is_a_demand and not any("." in part for part in setting.path):
            open_demands[setting.path] = setting.place
        elif not is_a_demand and not (isinstance(setting.value, yaml.MappingNode) and setting.value.value):
            for path in [path for path in open_demands if path[: len(setting.path)] == setting.path]:
                del open_demands[path]
    typed = list(keys_of_overrides(composer, deleted=True)) if open_demands else []
    for path, place in open_demands.items():
        key = ".".join(path)
        is_seen = OmegaConf.is_missing(OmegaConf.select(config, ".".join(path[:-1])) or config, path[-1])
        if not overlaps_any(key, typed) and not is_seen:
            yield Problem(key, f"has no value yet ({place}).", f"Set it: {key}=...")


def _dotted(config: DictConfig, composer: Composer) -> Iterator[tuple[str, Problem]]:
    """Yield keys that contain a dot, which is a path on the command line but a single key in a file."""
    for path, value, place in _settings(config, composer, _A_DOTTED_KEY):
        *above, last = path
        if "." in last and _has_known_keys(tuple(above), config):
            what = f"'{last}' is one key with a dot in its name, and there is no such key."
            shown = value.value if isinstance(value, yaml.ScalarNode) else "..."
            lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(last.split("."))]
            advice = "Write one line for each part:\n" + "\n".join(f"        {line}" for line in lines)
            yield ".".join(path), Problem(place, what, f"{advice} {shown}")


def _has_known_keys(path: Keys, config: DictConfig) -> bool:
    """Return whether the keys at this path are parameters, and not free names such as columns of the data."""
    if not path or (len(path) == 1 and path[0] in GROUPS):
        return True
    node = OmegaConf.select(config, ".".join(path), throw_on_resolution_failure=False)
    return isinstance(node, DictConfig) and "_target_" in node


def _settings(config: DictConfig, composer: Composer, sign: re.Pattern[str]) -> Iterator[_Setting]:
    """Yield the settings of all files in merge order, starting with the first whose text matches `sign`."""
    folders = folders_of(config)
    found = False
    for default in composer.defaults():
        file = find_config_file(default.config_path or "", folders)
        if file is None:
            continue
        found = found or bool(sign.search(file.read_text("utf-8")))
        if not found:
            continue
        node = parse_yaml(file)
        if node is not None:
            package = tuple(default.package.split(".")) if default.package else ()
            yield from _inside(node, package, file)


def _inside(node: yaml.Node, path: Keys, file: Path) -> Iterator[_Setting]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not path and key.value == "defaults":
            continue
        inner = (*path, str(key.value))
        yield _Setting(inner, value, f"{display_path(file)}:{key.start_mark.line + 1}")
        yield from _inside(value, inner, file)
