"""What Hydra, OmegaConf and PyYAML say about a config, in one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import yaml
from hydra.errors import MissingConfigException

from finetune.config.spelling import did_you_mean
from finetune.errors import Problem


def as_problem(error: BaseException, where: str, folders: list[Path]) -> Problem:
    """The problem behind an exception raised while composing; `where` is what to blame if it names no file."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _missing_file(cause, where, folders)
        if isinstance(cause, yaml.MarkedYAMLError):
            return _broken_yaml(cause, where)
        if isinstance(cause, (UnicodeDecodeError, yaml.reader.ReaderError)):
            return Problem(where, "a YAML file that it needs is not UTF-8 text.", "Save it as UTF-8.")
    return _told_by_hydra(chain[-1], where, folders)


def file_of(config_path: str, folders: list[Path]) -> str:
    """The file of a config such as `model/bert`, as a person would write it from where they are."""
    for folder in folders:
        path = folder / f"{config_path}.yaml"
        if path.is_file():
            return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return f"{config_path}.yaml"


def listing(options: Iterable[str]) -> str:
    """The options of a group as half a sentence."""
    names = sorted(options)
    return f"There are: {', '.join(names)}." if names else "It has no options yet."


def _causes(error: BaseException) -> Iterable[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _missing_file(error: MissingConfigException, where: str, folders: list[Path]) -> Problem:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    holder = re.search(r"In '([^']+)'", str(error))
    place = file_of(holder[1], folders) if holder else where
    if not group:
        return Problem(place, f"there is no file '{option}.yaml'.", f"Looked in {', '.join(map(str, folders))}.")
    options = list(error.options or [])
    advice = f"{did_you_mean(option, options)} {listing(options)}".strip() if options else ""
    return Problem(place, f"its defaults name '{option}', which group {group} does not have.", advice)


def _broken_yaml(error: yaml.MarkedYAMLError, where: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f"{_short(mark.name)}:{mark.line + 1}" if mark else where
    return Problem(
        place, f"this is not valid YAML: {error.problem or error.context}.", "Look at this line and above it."
    )


def _short(name: str) -> str:
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name


def _told_by_hydra(error: BaseException, where: str, folders: list[Path]) -> Problem:
    text = str(error).strip() or type(error).__name__
    holder = re.match(r"In '?([\w/.-]+?)'?: *(.*)", text, re.DOTALL)
    if holder:
        where, text = file_of(holder[1], folders), holder[2].strip()
    if re.search(r"Multiple values for|appears more than once|force-add of config groups", text):
        return Problem(where, "this group has its choice already.", "Leave out the plus to change it.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # OmegaConf's further lines (full_key, object_type) speak of its insides; Hydra's second line is its advice.
    further = [line for line in lines[1:] if not re.match(r"(full_key|object_type|reference_type|See )", line)]
    first = lines[0] if lines else text
    return Problem(where, first if first.endswith((".", "?", "!")) else f"{first}.", " ".join(further[:1]))
