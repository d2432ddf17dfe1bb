"""Checks overrides one by one: their syntax, and whether the group, option or key exists."""

from __future__ import annotations

import re
import shlex
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from finetune.config.arguments import parameter_names, refusal_of
from finetune.config.compose import Composer
from finetune.config.home import expand_home
from finetune.config.hydra_errors import listing
from finetune.config.quoting import quoted, typed
from finetune.config.rules import GROUPS
from finetune.config.suggest import did_you_mean
from finetune.config.values import keys_of
from finetune.errors import Problem

_QUOTED_KEY = re.compile(r"""(?P<before>[{,]\s*)(?P<quote>["'])(?P<key>[^"']*)(?P=quote)\s*:\s*""")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_SEVERAL_RUNS = "this asks for several runs."
MOST_LISTED = 25  # keys that a message lists if no suggestion is close


def parse(texts: list[str]) -> tuple[list[Override], list[Problem]]:
    """Return the valid overrides, and a problem for each that cannot be parsed or asks for a sweep."""
    parser = OverridesParser.create()
    overrides: list[Override] = []
    problems: list[Problem] = []
    texts, spaced = _without_spaced(texts)
    problems += spaced
    for text in texts:
        try:
            override = parser.parse_override(text)
        except (HydraException, ValueError, RecursionError) as error:
            problems.append(_json(text) or _unreadable(text, error))
            continue
        if not override.key_or_group:
            problems.append(Problem(text, "there is no key before the '='.", "Overrides are written KEY=VALUE."))
        elif override.is_sweep_override():
            problems.append(_sweep(override))
        else:
            overrides.append(override)
    return overrides, problems


def _without_spaced(texts: list[str]) -> tuple[list[str], list[Problem]]:
    """Return the texts without `KEY = VALUE` and `KEY =VALUE`, which the shell splits, and a problem for each."""
    rest, problems, position = [], [], 0
    while position < len(texts):
        key, *following = texts[position : position + 3]
        if "=" in key or not following or not following[0].startswith("="):
            rest.append(key)
            position += 1
            continue
        count = 3 if following[0] == "=" else 2
        pieces = texts[position : position + count]
        problems.append(_spaced(" ".join(pieces), "".join(pieces)))
        position += count
    return rest, problems


def _spaced(text: str, joined: str) -> Problem:
    return Problem(text, "there are no spaces around the '='.", f"Write {shlex.quote(joined)}.")


def is_group_choice(override: Override, composer: Composer) -> bool:
    """Return whether an override selects (or removes) an option of a group, rather than setting a key."""
    # model={name: x} sets keys of the chosen option.
    return not isinstance(override.value(), dict) and composer.is_group(override.key_or_group)


def choice_problem(override: Override, composer: Composer) -> Problem | None:
    """Return the problem of an override that selects an option; None if it is valid."""
    group, value, text = override.key_or_group, override.value(), str(override.input_line)
    if override.is_delete():
        return None
    if override.is_force_add():
        return Problem(text, "a group is added with one plus, or changed without.", f"Write {text.lstrip('+')}.")
    if value is None:
        return Problem(text, f"expected an option of group {group}, found null.", _instead_of_null(group, composer))
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not _is_option(group, name, composer):
            options = composer.options(group)
            advice = f"{did_you_mean(str(name), options)} {listing(options)}".strip()
            return Problem(text, f"group {group} has no '{name}'.", advice)
    return None


def how_to_empty(group: str, composer: Composer) -> str:
    """Return how to empty a group that is required and may be empty."""
    if "none" in composer.options(group):
        return f"Empty it with {group}=none."
    return f"Remove its entries one by one, as in ~{group}.NAME."


def key_problem(override: Override, tree: dict[str, Any], composer: Composer) -> Problem | None:
    """Return the problem of setting, adding or deleting a key of the composed, unresolved tree; None if it is valid."""
    key, text = override.key_or_group, str(override.input_line)
    if override.package is not None:
        groups = composer.groups()
        return Problem(text, f"there is no group '{key}'.", did_you_mean(key, groups) or listing(groups))
    adds = override.is_add() or override.is_force_add()
    at, node, missing = _follow(key, tree)
    if missing is None:
        return _existing_key_problem(override, node, tree, composer)
    if isinstance(node, str) and "${" in node:
        return None  # Hydra follows interpolations
    if not isinstance(node, dict) and not (adds and node is None):
        return Problem(text, f"'{at}' is a value and has no '{missing}' below it.", f"Set it as a whole: {at}=...")
    if adds:
        return None
    return _absent(text, key, tree, composer)


def _existing_key_problem(override: Override, node: Any, tree: dict[str, Any], composer: Composer) -> Problem | None:
    text = str(override.input_line)
    is_set = node is not None and not isinstance(override.value(), dict | list)
    if override.is_add() and is_set:
        return Problem(text, "this key already exists.", f"Remove the plus: {text[1:]}")
    if override.is_add() or override.is_force_add() or override.is_delete():
        return None
    return _dict_problem(override, override.key_or_group, node, tree, composer)


def apply_override(override: Override, tree: dict[str, Any]) -> None:
    """Set, add or delete the key in the plain tree, so that the next override is checked against the result."""
    *path, last = override.key_or_group.split(".")
    node: Any = tree
    for part in path:
        if isinstance(node, list):
            node = node[int(part)]
        elif isinstance(node, dict):
            if not isinstance(node.get(part), dict | list):
                node[part] = {}
            node = node[part]
    value = override.value()
    if isinstance(node, list):
        node[int(last)] = value
    elif override.is_delete():
        node.pop(last, None)
    elif isinstance(value, dict) and isinstance(node.get(last), dict):
        node[last] = {**node[last], **value}
    else:
        node[last] = value


def _unreadable(text: str, error: Exception) -> Problem:
    if not text.strip() or not text.isprintable():
        what = "this has characters that cannot be printed."
        if not text.strip():
            what = "this is empty."
        return Problem(repr(text), what, "Overrides are written KEY=VALUE.")
    key, equals, value = text.partition("=")
    if not equals or key != key.strip():
        return _not_key_value(text)
    if not re.fullmatch(r"[~+]{0,2}[\w$/@:.-]*", key, re.ASCII) or ".." in key:
        return Problem(
            text, f"'{key}' cannot be a key.", "Keys are words of a to z, 0 to 9, - and _, separated by dots."
        )
    if "${" in value or value[:1] in ("[", "{", "'", '"'):
        advice = "Check its brackets, commas and quotes."
        if "${" in value:  # quotes would only hide the mistake
            advice = f"An interpolation is written '{key}=${{KEY}}', in single quotes for the shell."
        return Problem(text, f"the value cannot be parsed: {_first_line(error)}.", advice)
    if value.startswith("~/"):
        value = str(expand_home(value))  # shells do not expand it after '='
        return Problem(text, "a value cannot start with '~'.", f"Write {typed(key, quoted(value))}.")
    what = "the value has characters that need quotes."
    return Problem(text, what, f"Write {typed(key, quoted(value))} (both quotes).")


def _not_key_value(text: str) -> Problem:
    key, equals, value = text.partition("=")
    if equals:
        return _spaced(text, f"{key.strip()}={value.strip()}")
    if expand_home(text).exists():
        what = "expected KEY=VALUE, found a file or folder."
        return Problem(text, what, f"Write {typed('data.path', quoted(text))}.")
    return Problem(text, "expected KEY=VALUE, found no '='.", "Overrides are written KEY=VALUE without spaces.")


def _json(text: str) -> Problem | None:
    """Return the problem of a text that is written as JSON; None for other texts."""
    key, equals, value = text.partition("=")
    if not _QUOTED_KEY.search(value if equals else text):
        return None
    if not equals:
        what = "this is JSON, and overrides are written one by one."
        return Problem(text, what, "Write KEY=VALUE for each, with dots in nested keys: data.path=pairs.csv")
    unquoted = _QUOTED_KEY.sub(lambda found: f"{found['before']}{found['key']}: ", value)
    what = "keys inside braces are written without quotes, unlike in JSON."
    return Problem(text, what, f"Write {shlex.quote(f'{key}={unquoted}')}")


def _instead_of_null(group: str, composer: Composer) -> str:
    if group not in GROUPS:
        return f"~{group} removes it."
    if GROUPS[group].named or GROUPS[group].optional:
        return how_to_empty(group, composer)
    return listing(composer.options(group))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _sweep(override: Override) -> Problem:
    text, (key, _, value) = str(override.input_line), str(override.input_line).partition("=")
    advice = "Add -m to run them all"
    if override.is_choice_sweep():
        advice += f", or write '{key}=[{value}]' for a list, or '{key}=\"{value}\"' for one text"
    return Problem(text, _SEVERAL_RUNS, f"{advice}.")


def with_decimal_comma_advice(problem: Problem, config: DictConfig | None) -> Problem:
    """Return the problem of several values, with advice for a decimal comma (`0,05`) if the key has a float."""
    key, _, value = problem.where.partition("=")
    if problem.what != _SEVERAL_RUNS or config is None or not _DECIMAL_COMMA.fullmatch(value):
        return problem
    if not isinstance(OmegaConf.select(config, key, throw_on_missing=False), float):
        return problem
    return Problem(problem.where, problem.what, f"Did you mean {value.replace(',', '.')}? Or add -m to run them all.")


def _is_option(group: str, name: str, composer: Composer) -> bool:
    if "${" in name:
        return True
    folder, _, option = f"{group}/{name}".rpartition("/")
    return option.removesuffix(".yaml") in composer.options(folder)


def _follow(key: str, tree: Any) -> tuple[str, Any, str | None]:
    """Follow a key as far as it exists: return that path, its value, and the first missing part (None if all exist)."""
    at: list[str] = []
    for part in key.split("."):
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return ".".join(at), tree, part
        at.append(part)
    return key, tree, None


def _dict_problem(override: Override, key: str, node: Any, tree: dict[str, Any], composer: Composer) -> Problem | None:
    # optimizer={lr: 1} sets each key inside, and each must exist.
    value = override.value()
    if isinstance(value, dict) and isinstance(node, dict):
        for name in value:
            if name not in node:
                return _absent(str(override.input_line), f"{key}.{name}", tree, composer)
    return None


def _absent(text: str, key: str, tree: dict[str, Any], composer: Composer) -> Problem:
    """Return the problem of a key that does not exist, with how to add it or the closest existing keys."""
    at, node, _ = _follow(key, tree)
    group, name = at.partition(".")[0], key.rpartition(".")[2]
    if node == {} and key == f"{at}.{name}":
        return Problem(text, f"'{key}' is not in the config yet.", f"Add it with a plus: +{key}=...")
    can_be_added = []
    if "_target_" in node and group in GROUPS:
        refusal = refusal_of(name, node["_target_"], group) if key == f"{at}.{name}" else None
        if refusal:
            return Problem(text, *refusal)
        can_be_added = [word for word in parameter_names(node["_target_"], group) if word not in node]
    if name in can_be_added and key == f"{at}.{name}":
        return Problem(text, f"'{key}' is not in the config yet.", f"Add it with a plus: +{text.lstrip('+~')}")
    is_hydra = key.startswith("hydra")
    candidates = [word for word in keys_of(tree) if word.startswith("hydra") == is_hydra]
    candidates += [f"{at}.{word}" for word in can_be_added]
    if is_hydra:
        candidates += [f"hydra/{word}" for word in composer.groups("hydra")]
    else:
        candidates += composer.groups()
    what = f"there is no key '{key}'." if "." in key else f"there is no group or key '{key}'."
    advice = did_you_mean(key, (word for word in candidates if word != key))
    if not advice and 0 < len(node) <= MOST_LISTED:
        names = ", ".join(str(word) for word in node if word != "hydra")
        advice = f"{at} has: {names}." if at else f"There are: {names}."
    return Problem(text, what, advice)
