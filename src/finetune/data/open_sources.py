"""Sources opened by their settings, with their first rows and the roles of their columns.

Fast for data of any size, and without NumPy and Arrow where the format does not need them, so that mistakes in a config
are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from finetune.config.suggest import did_you_mean
from finetune.data.beir_folder import WANTED, BeirFolder, beir_problem, eval_beir_folder, is_beir, named_judgments
from finetune.data.paths import resolve, suggest_siblings
from finetune.data.schema.column_spec import check_columns
from finetune.data.schema.layouts import Roles, find_roles
from finetune.data.settings import NAME_A_FILE, Data, SourceSettings
from finetune.data.sources import Head, Source, open_source
from finetune.errors import CheckFailed, Problem

T = TypeVar("T")
NEXT_TO_DATA = "evaluation"  # the folder that validation_path=auto looks for
_PROMPT_ROLES = ("anchor", "query", "positive", "document")


@dataclass(frozen=True)
class OpenedSource:
    """A source with its settings, its first rows and the roles of its columns."""

    settings: SourceSettings
    source: Source
    head: Head
    roles: Roles


def check_head(data: Data) -> list[Problem]:
    """Return what is wrong with the settings, the first rows, or the validation folder; fast for data of any size."""
    problems: list[Problem] = []
    sources = attempt(data.source_settings, problems)
    if sources is None:  # also check the files of the sources that have valid settings
        sources = data.valid_sources()
    for settings in sources:
        attempt(partial(open_with, settings), problems)
    attempt(partial(validation_folder, data), problems)
    return problems


def open_sources(data: Data) -> tuple[list[OpenedSource], BeirFolder | None]:
    """Return each source with its first rows and the roles of its columns, and the folder to evaluate on if any.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    problems: list[Problem] = []
    opened = []
    for settings in attempt(data.source_settings, problems) or []:
        source = attempt(partial(open_with, settings), problems)
        if source is not None:
            opened.append(source)
    folder = attempt(partial(validation_folder, data), problems)
    if problems:
        raise CheckFailed(problems)
    return opened, folder


def open_with(settings: SourceSettings) -> OpenedSource:
    """Return one source with its first rows and the roles of its columns.

    Raises:
        CheckFailed: with everything that is wrong, each at the key that sets it.
    """
    data = settings.data
    columns = _as_text(data.columns)
    try:
        problems = [*check_columns(columns), *_check_prompts(data.prompts)]
        if data.path is None:
            problems.append(Problem("data.path", "is not set.", NAME_A_FILE))
        if problems:
            raise CheckFailed(problems)
        source = open_source(data.path, settings.read_options)
        head = source.head()
        roles = find_roles(
            head.names,
            head.sample,
            columns,
            named=head.named,
            labelled=data.labelled,
            scored=data.score_values is not None,
            notations=head.notations,
            decimal=data.decimal,
        )
    except CheckFailed as failed:
        raise CheckFailed(map(settings.at_source, failed.problems)) from failed
    return OpenedSource(settings, source, head, roles)


def validation_folder(data: Data) -> BeirFolder | None:
    """Return the BEIR folder to evaluate on, None to hold out a part of the training data.

    Raises:
        CheckFailed: `data.validation_path` is missing or is no BEIR folder.
    """
    if data.validation_path is None:
        return None
    if data.validation_path == "auto":
        return _folder_next_to(data.path)
    shown, key = data.validation_path, "data.validation_path"
    folder = resolve(shown, key)
    if folder.is_dir():
        problem = beir_problem(folder, shown, key)
        if problem is not None:
            raise CheckFailed([problem])
    elif named_judgments(folder) is None:
        if folder.exists():
            raise CheckFailed([Problem(key, f"'{shown}' is a file.", WANTED)])
        advice = suggest_siblings(folder, only_beir=True) or WANTED
        raise CheckFailed([Problem(key, f"there is no folder '{shown}'.", advice)])
    return eval_beir_folder(folder, shown, key)


def _folder_next_to(path: object) -> BeirFolder | None:
    if not isinstance(path, str) or "://" in path.replace("shipped://", ""):
        return None
    folder = resolve(path).parent / NEXT_TO_DATA
    if not is_beir(folder):
        return None
    return eval_beir_folder(folder, NEXT_TO_DATA, "data.validation_path", f"{NEXT_TO_DATA}/ next to the data file")


def _check_prompts(prompts: dict[str, str] | None) -> list[Problem]:
    problems = []
    for role in prompts or {}:
        if role not in _PROMPT_ROLES:
            advice = did_you_mean(role, _PROMPT_ROLES) or f"There are: {', '.join(_PROMPT_ROLES)}."
            problems.append(Problem(f"data.prompts.{role}", "there is no such role.", advice))
    return problems


def _as_text(columns: Any) -> Any:
    """Return the names of columns as text: those of a table without a header are numbers."""
    if isinstance(columns, dict):
        return {role: _as_text(names) for role, names in columns.items()}
    if isinstance(columns, list):
        return [str(name) for name in columns]
    if columns is None:
        return None
    return str(columns)


def attempt(call: Callable[[], T], problems: list[Problem]) -> T | None:
    """Return what `call` returns; None if it raises `CheckFailed`, whose problems are then added to `problems`."""
    try:
        return call()
    except CheckFailed as failed:
        # Two calls can find the same problem.
        problems += [problem for problem in failed.problems if problem not in problems]
        return None
