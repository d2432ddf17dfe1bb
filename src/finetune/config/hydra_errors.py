"""What Hydra, OmegaConf and PyYAML say about a config, in one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from hydra.errors import MissingConfigException
from omegaconf.errors import GrammarParseError

from finetune.config.suggest import did_you_mean
from finetune.errors import Problem


def as_problem(error: BaseException, where: str, folders: list[Path]) -> Problem:
    """The problem behind an exception raised while composing; `where` is what to blame if it names no file."""
    chain = _causes(error)
    for cause in chain:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _missing_file(cause, where, folders)
        if isinstance(cause, yaml.MarkedYAMLError):
            return _broken_yaml(cause, where)
        if isinstance(cause, UnicodeDecodeError | yaml.reader.ReaderError):
            place = next((short(file) for file in _files(folders) if not _is_utf8(file)), where)
            return Problem(place, "this file is not UTF-8 text.", "Save it as UTF-8.")
        if isinstance(cause, GrammarParseError):
            return Problem(where, f"a ${{...}} cannot be read: {_lines(cause)[0]}.", "Look at its braces.")
    return _told_by_hydra(chain[-1], where, folders)


def listing(options: Iterable[str]) -> str:
    """The options of a group as half a sentence."""
    names = sorted(options)
    return f"There are: {', '.join(names)}." if names else "It has no options yet."


def _causes(error: BaseException) -> list[BaseException]:
    """The error, what caused it, what caused that; OmegaConf can raise an error from itself."""
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
    """Where a `defaults` list makes this choice: Hydra names the file that it changes, not the one that says so."""
    entry = re.compile(rf"\s*-\s*(override\s+)?/?{re.escape(group)}(@\S+)?\s*:\s*{option}\s*(#.*)?$")
    for file in _files(folders):
        if _is_utf8(file):
            for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
                if entry.match(line):
                    return f"{short(file)}:{number}"
    return None


def _broken_yaml(error: yaml.MarkedYAMLError, where: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f"{short(Path(mark.name))}:{mark.line + 1}" if mark else where
    return Problem(
        place, f"this is not valid YAML: {error.problem or error.context}.", "Look at this line and above it."
    )


def _told_by_hydra(error: BaseException, where: str, folders: list[Path]) -> Problem:
    first, *further = _lines(error)
    holder = re.match(r"In '?([\w/.-]+?)'?: *(.*)", first)
    if holder:
        file = next(
            (folder / f"{holder[1]}.yaml" for folder in folders if (folder / f"{holder[1]}.yaml").is_file()), None
        )
        where, first = (short(file) if file else holder[1]), holder[2]
        if not first or first.endswith("raised while composing config:"):
            first, *further = further or [type(error).__name__]
    if re.match("Cannot merge DictConfig with ListConfig", first):
        return Problem(where, "expected keys, found a list.", "Every line is written KEY: VALUE.")
    if found := re.search(r"Could not override '([^']+)'\. No match", first):
        groups = [child.name for folder in folders for child in folder.iterdir() if child.is_dir()]
        where = _defaults_entry(found[1], ".*", folders) or where if holder else where
        advice = did_you_mean(found[1], groups) if found[1] not in groups else f"Add it with a plus: +{found[1]}=..."
        return Problem(where, f"there is no choice of '{found[1]}' to change.", advice)
    if re.search(r"Multiple values for|appears more than once", first):
        return Problem(where, "this group has its choice already.", "Leave out the plus to change it.")
    if found := re.search(r"path=(.*) is not available", first):
        return Problem(where, f"there is no folder '{found[1]}' to search for groups.", "Look at hydra.searchpath.")
    return Problem(where, first if first.endswith((".", "?", "!")) else f"{first}.", " ".join(further[:1]))


def _lines(error: BaseException) -> list[str]:
    """The message without OmegaConf's further lines (full_key, object_type), which speak of its insides."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not re.match(r"(full_key|object_type|reference_type|See )", line)]
    return said or [type(error).__name__]


def _files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.rglob("*.yaml"))


def _is_utf8(file: Path) -> bool:
    try:
        file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return True


def short(path: Path) -> str:
    """The path as a person would write it from where they are."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
