"""What only shows in the files of a config: once they are merged, it is gone or looks like something else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import Composer, shipped_folder
from finetune.config.hydra_errors import short
from finetune.config.key_locations import find, folders_of, is_among, keys_typed, parsed
from finetune.config.rules import GROUPS, KEYS
from finetune.errors import Problem

Keys = tuple[str, ...]


# What the text of a file has that may hold one.
_A_DEMAND = re.compile(r"\?\?\?")
_A_DOTTED_KEY = re.compile(r"\w\.[\w.]+['\"]?\s*:")


class _Setting(NamedTuple):
    """A key of a file, by its path in the config, with its value and its place."""

    path: Keys
    value: yaml.Node
    place: str


def unfit_root(config: DictConfig | None, composer: Composer) -> Problem | None:
    """What is wrong where a root config of the user's own, or of another program, has the place of the shipped one.

    `config` is None if it cannot be composed. What is missing in it would otherwise be reported key by key.
    """
    root = composer.own_root
    if root is None:
        return None
    hiding = _hiding_the_shipped(root)
    if config is None and hiding is None and not (shipped_folder() / root.name).is_file():
        return None
    there = [] if config is None else [*map(str, config), *keys_typed(composer, deleted=True)]
    missing = [name for name in (*GROUPS, *KEYS) if name not in there]
    if not missing:
        return None
    if hiding is not None:
        what = f"its default 'train' is {short(hiding)}, which is not finetune's root config."
        return Problem(short(root), what, f"Rename {short(hiding)}, so that 'train' is the root of finetune.")
    what = "this file is the root config here, in place of the one that comes with finetune"
    what += ", and cannot be composed." if config is None else f", and has no {', '.join(missing)}."
    if not (shipped_folder() / root.name).is_file():
        return Problem(short(root), what, "Let it begin with 'defaults: [train, _self_]'.")
    advice = (
        "If it belongs to another program, start finetune in another folder, or with --config-dir FOLDER.\n"
        "    If it is yours, give it another name, let it begin with 'defaults: [train, _self_]', and use "
        "--config-name NAME."
    )
    return Problem(short(root), what, advice)


def _hiding_the_shipped(root: Path) -> Path | None:
    """The file that hides the shipped root from a user's root config whose defaults name it."""
    hiding = root.with_name("train.yaml")
    if root == hiding or not hiding.is_file():
        return None
    try:
        content = yaml.safe_load(root.read_text("utf-8"))
    except (ValueError, yaml.YAMLError):
        return None  # which is a problem of its own
    defaults = content.get("defaults") if isinstance(content, dict) else None
    names = [str(each).removesuffix(".yaml").lstrip("/") for each in defaults] if isinstance(defaults, list) else []
    return hiding if "train" in names else None


def check_files(config: DictConfig, composer: Composer) -> tuple[list[Problem], set[str]]:
    """Everything in the files of the last composed config that does not do what it says, and the keys of the config
    that are wrong because of it.
    """
    dotted = dict(_dotted(config, composer))
    return [*dotted.values(), *_demanded(config, composer)], set(dotted)


def _demanded(config: DictConfig, composer: Composer) -> Iterator[Problem]:
    """Keys that a file demands with `???`, and that nothing after it sets: merging keeps the value before."""
    open_demands: dict[Keys, str] = {}
    for setting in _settings(config, composer, _A_DEMAND):
        is_a_demand = isinstance(setting.value, yaml.ScalarNode) and setting.value.value == "???"
        if is_a_demand and not any("." in part for part in setting.path):
            open_demands[setting.path] = setting.place
        elif not is_a_demand and not (isinstance(setting.value, yaml.MappingNode) and setting.value.value):
            for path in [path for path in open_demands if path[: len(setting.path)] == setting.path]:
                del open_demands[path]
    typed = list(keys_typed(composer, deleted=True)) if open_demands else []
    for path, place in open_demands.items():
        key = ".".join(path)
        is_seen = OmegaConf.is_missing(OmegaConf.select(config, ".".join(path[:-1])) or config, path[-1])
        if not is_among(key, typed) and not is_seen:
            yield Problem(key, f"has no value yet ({place}).", f"Set it: {key}=...")


def _dotted(config: DictConfig, composer: Composer) -> Iterator[tuple[str, Problem]]:
    """Keys with a dot inside: a path on the command line, one word in a file."""
    for path, value, place in _settings(config, composer, _A_DOTTED_KEY):
        *above, last = path
        if "." in last and _has_known_keys(tuple(above), config):
            what = f"'{last}' is one key with a dot in its name, and there is no such key."
            shown = value.value if isinstance(value, yaml.ScalarNode) else "..."
            lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(last.split("."))]
            advice = "Write a line for each part:\n" + "\n".join(f"        {line}" for line in lines)
            yield ".".join(path), Problem(place, what, f"{advice} {shown}")


def _has_known_keys(path: Keys, config: DictConfig) -> bool:
    """Whether the keys at this place are ours to name, and not the data's, or those of a search."""
    if not path or (len(path) == 1 and path[0] in GROUPS):
        return True
    node = OmegaConf.select(config, ".".join(path), throw_on_resolution_failure=False)
    return isinstance(node, DictConfig) and "_target_" in node


def _settings(config: DictConfig, composer: Composer, sign: re.Pattern[str]) -> Iterator[_Setting]:
    """The settings of all files from the first one on that has the `sign` in its text, in the order of merging."""
    folders = folders_of(config)
    found = False
    for default in composer.defaults():
        file = find(default.config_path or "", folders)
        if file is None:
            continue
        found = found or bool(sign.search(file.read_text("utf-8")))
        if found and (node := parsed(file)) is not None:
            package = tuple(default.package.split(".")) if default.package else ()
            yield from _inside(node, package, file)


def _inside(node: yaml.Node, path: Keys, file: Path) -> Iterator[_Setting]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if not path and key.value == "defaults":
            continue
        inner = (*path, str(key.value))
        yield _Setting(inner, value, f"{short(file)}:{key.start_mark.line + 1}")
        yield from _inside(value, inner, file)
