"""Known good base models: `known_models.yaml`, and files of the user; no torch."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from finetune.config.home import expand_home
from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError

FILES = "FINETUNE_MODELS"  # the environment variable with files of the user

_OWN_FILE = Path(__file__).with_suffix(".yaml")
_COLUMNS = ("name", "model", "parameters", "width", "max_length", "languages", "license", "tasks", "notes")


@dataclass(frozen=True)
class KnownModel:
    """A known model; the fields are explained in `known_models.yaml`."""

    name: str
    model: str
    width: int
    parameters: float | None = None
    max_length: int | None = None
    languages: str | None = None
    license: str | None = None
    tasks: tuple[str, ...] = ()
    query: str = ""
    document: str = ""
    matryoshka: tuple[int, ...] = ()
    gated: bool = False
    tuned: bool = True

    @property
    def notes(self) -> str:
        """What to know before using it, in words."""
        notes = []
        if not self.tuned:
            notes.append("needs training")
        if self.gated:
            notes.append("gated: accept the terms on the hub")
        if self.query or self.document:
            notes.append("has prompts")
        if self.matryoshka:
            notes.append(f"also with {', '.join(map(str, self.matryoshka))} dimensions")
        return "; ".join(notes)


class ModelTable(tuple[KnownModel, ...]):
    """Known models, shown as a table in a terminal and in a notebook."""

    __slots__ = ()

    def columns(self) -> dict[str, list[Any]]:
        """Return all fields by name, ready for `pandas.DataFrame` or `polars.DataFrame`."""
        return {field.name: [getattr(model, field.name) for model in self] for field in fields(KnownModel)}

    def __repr__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(*_COLUMNS, box=None)
        for row in self._rows():
            table.add_row(*row)
        console = Console(width=1000, color_system=None, force_jupyter=False)  # no column is cut
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self._rows()]
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def _rows(self) -> Iterator[list[str]]:
        for model in self:
            yield [_cell(name, getattr(model, name)) for name in _COLUMNS]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g} M" if name == "parameters" else str(value)


def list_models(task: str | None = None) -> list[str]:
    """Return the names of the known models, all or those for a task.

    Raises:
        FinetuneError: there is no such task; a file of the user is damaged.

    Example:
        >>> from finetune.inference.known_models import list_models
        >>> "BAAI/bge-m3" in list_models("search")
        True
    """
    return [model.name for model in describe_models(task)]


def describe_models(task: str | None = None) -> ModelTable:
    """Return a table of the known models, all or those for a task: search, similarity, reranking or images.

    Own models are added by YAML files that the environment variable FINETUNE_MODELS names, as `known_models.yaml` has
    them.

    Raises:
        FinetuneError: there is no such task; a file of the user is damaged.

    Example:
        >>> from finetune.inference.known_models import describe_models
        >>> describe_models("reranking")[0].max_length
        512
    """
    by_name: dict[str, KnownModel] = {}
    for path in [_OWN_FILE, *_user_files()]:
        by_name |= {model.name: model for model in _read(path)}
    tasks = sorted({each for model in by_name.values() for each in model.tasks})
    if task is not None and task not in tasks:
        advice = did_you_mean(task, tasks) or f"Choose one of {', '.join(tasks)}."
        raise FinetuneError(f"no known model is for the task {task!r}.", advice)
    return ModelTable(model for model in by_name.values() if task is None or task in model.tasks)


def _user_files() -> list[Path]:
    return [expand_home(part) for part in os.environ.get(FILES, "").split(os.pathsep) if part]


def _read(path: Path) -> list[KnownModel]:
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = f"{path} cannot be read ({error})."
        raise FinetuneError(what, f"Correct the file, or remove it from {FILES}.") from error
    if not isinstance(entries, list):
        raise FinetuneError(f"{path} is not a list of models.", "Write an entry for each, as in known_models.yaml.")
    return [_entry(entry, path) for entry in entries]


def _entry(entry: Any, path: Path) -> KnownModel:
    names = [field.name for field in fields(KnownModel)]
    if not isinstance(entry, dict) or not {"name", "model", "width"} <= set(entry):
        raise FinetuneError(f"{path}: {entry!r:.80} has no name, model and width.", "Add them.")
    unknown = [str(key) for key in entry if key not in names]
    if unknown:
        advice = did_you_mean(unknown[0], names) or f"The keys are {', '.join(names)}."
        raise FinetuneError(f"{path}: {entry['name']} has an unknown key {unknown[0]!r}.", advice)
    lists = {key: tuple(entry[key] or ()) for key in ("tasks", "matryoshka") if key in entry}
    return KnownModel(**{**entry, **lists})
