"""Converts errors of Hydra, OmegaConf and PyYAML into problems, of one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from hydra.errors import MissingConfigException
from omegaconf.errors import GrammarParseError

from finetune.config.suggest import did_you_mean
from finetune.errors import Problem


def to_problem(error: BaseException, where: str, folders: list[Path]) -> Problem:
    """Return the problem behind an exception raised while composing; `where` is its location if it names no file."""
    chain = _causes(error)
    for cause in chain:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _missing_file(cause, where, folders)
        if isinstance(cause, yaml.MarkedYAMLError):
            return _broken_yaml(cause, where)
        if isinstance(cause, UnicodeDecodeError | yaml.reader.ReaderError):
            place = next((display_path(file) for file in _files(folders) if not _is_utf8(file)), where)
            return Problem(place, "this file is not UTF-8 text.", "Save it as UTF-8.")
        if isinstance(cause, GrammarParseError):
            return Problem(where, f"a ${{...}} cannot be parsed: {_lines(cause)[0]}.", "Check its braces.")
    return _from_message(chain[-1], where, folders)


def listing(options: Iterable[str]) -> str:
    """Return a sentence that lists the options of a group."""
    names = sorted(options)
    if not names:
        return "It has no options yet."
    return f"There are: {', '.join(names)}."


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and its chain of causes; stops at a cycle, because OmegaConf can raise an error from itself."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    return chain


def _missing_file(error: MissingConfigException, where: str, folders: list[Path]) -> Problem:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return Problem(where, f"there is no file '{option}.yaml'.", f"Looked in {', '.join(map(str, folders))}.")
    options = list(error.options or [])
    advice = f"{did_you_mean(option, options)} {listing(options)}".strip()
    place = _defaults_entry(group, re.escape(option), folders) or where
    return Problem(place, f"the defaults name '{option}', which group {group} does not have.", advice)


def _defaults_entry(group: str, option: str, folders: list[Path]) -> str | None:
    """Return the location of a choice in a `defaults` list, which Hydra's message does not name."""
    entry = re.compile(rf"\s*-\s*(override\s+)?/?{re.escape(group)}(@\S+)?\s*:\s*{option}\s*(#.*)?$")
    for file in _files(folders):
        if _is_utf8(file):
            for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
                if entry.match(line):
                    return f"{display_path(file)}:{number}"
    return None


def _broken_yaml(error: yaml.MarkedYAMLError, where: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f"{display_path(Path(mark.name))}:{mark.line + 1}" if mark else where
    return Problem(
        place, f"this is not valid YAML: {error.problem or error.context}.", "Check this line and those above it."
    )


def _from_message(error: BaseException, where: str, folders: list[Path]) -> Problem:
    """Return the problem that the text of an error describes."""
    first, *further = _lines(error)
    in_file = re.match(r"In '?([\w/.-]+?)'?: *(.*)", first)
    if in_file:
        where, first = _file_of(in_file[1], folders), in_file[2]
        if not first or first.endswith("raised while composing config:"):
            first, *further = further or [type(error).__name__]
    if re.match("Cannot merge DictConfig with ListConfig", first):
        return Problem(where, "expected keys, found a list.", "Every line is written KEY: VALUE.")
    not_chosen = re.search(r"Could not override '([^']+)'\. No match", first)
    if not_chosen:
        if in_file:
            where = _defaults_entry(not_chosen[1], ".*", folders) or where
        return _not_chosen(not_chosen[1], where, folders)
    if re.search(r"Multiple values for|appears more than once", first):
        return Problem(where, "an option of this group is already chosen.", "Remove the plus to change it.")
    unavailable = re.search(r"path=(.*) is not available", first)
    if unavailable:
        what = f"there is no folder '{unavailable[1]}' to search for groups."
        return Problem(where, what, "Check hydra.searchpath.")
    if not first.endswith((".", "?", "!")):
        first += "."
    return Problem(where, first, " ".join(further[:1]))


def _file_of(config_path: str, folders: list[Path]) -> str:
    for folder in folders:
        file = folder / f"{config_path}.yaml"
        if file.is_file():
            return display_path(file)
    return config_path


def _not_chosen(group: str, where: str, folders: list[Path]) -> Problem:
    groups = [child.name for folder in folders for child in folder.iterdir() if child.is_dir()]
    advice = did_you_mean(group, groups)
    if group in groups:
        advice = f"Add it with a plus: +{group}=..."
    return Problem(where, f"there is no choice of '{group}' to change.", advice)


def _lines(error: BaseException) -> list[str]:
    """Return the lines of the message without OmegaConf's internals (full_key, object_type)."""
    lines = [line.strip() for line in str(error).splitlines()]
    relevant = [line for line in lines if line and not re.match(r"(full_key|object_type|reference_type|See )", line)]
    return relevant or [type(error).__name__]


def _files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.rglob("*.yaml"))


def _is_utf8(file: Path) -> bool:
    try:
        file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return True


def display_path(path: Path) -> str:
    """Return the path, relative to the working directory if it is below it."""
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)
