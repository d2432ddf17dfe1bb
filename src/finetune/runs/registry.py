"""Listing the runs below a folder, and finding one by its name; by scanning, without an index that can be outdated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from finetune.config.home import expand_home
from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError
from finetune.runs.directory import RunDirectory
from finetune.runs.record import is_run

OUTPUTS = Path("outputs")  # the default of output_root in conf/train.yaml


def run_folders(root: Path) -> list[Path]:
    """Return the folders `root/<experiment>/<run>` that are runs.

    Raises:
        FinetuneError: the folder `root` does not exist.
    """
    if not root.is_dir():
        what, advice = f"there is no folder {root} with runs.", "Give their folder (output_root=) with --root."
        if root == OUTPUTS:
            what = f"there are no runs yet: {what}"
            advice = f"Train one: finetune train data.path=pairs.csv. If there are runs elsewhere: {advice}"
        raise FinetuneError(what, advice)
    return [path for experiment in _folders(root) for path in _folders(experiment) if is_run(path)]


def _folders(parent: Path) -> Iterator[Path]:
    """Yield the visible folders in a folder, sorted; none if it cannot be read."""
    try:
        with os.scandir(parent) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return
    yield from (parent / name for name in names)


def find_run(name: str, root: Path, *, whole: bool = False) -> Path:
    """Return the run with this path, `<experiment>/<run>`, or name, or a part of its name.

    With `whole` a part of the name is not enough: for commands that cannot be undone.

    Raises:
        FinetuneError: there is no such run, or more than one.
    """
    if Path(name).is_dir() and is_run(Path(name)):
        return Path(name)
    paths = run_folders(root)
    found = [path for path in paths if name in (_full_name(path), path.name)]
    if not found and not whole:
        found = [path for path in paths if name in _full_name(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise FinetuneError(f"'{name}' matches {len(found)} runs.", f"Give one: {_list_names(found)}.")
    advice = did_you_mean(name, _names(paths)) or "`finetune runs` lists all runs."
    if Path(name).exists():
        raise FinetuneError(f"'{name}' is not a run.", advice)
    raise FinetuneError(f"there is no run '{name}' in {root}.", advice)


def suggest_run(name: str, root: Path = OUTPUTS) -> str:
    """Return a sentence with the runs that have a similar name; an empty text if none has."""
    if not root.is_dir():
        return ""
    return did_you_mean(name, _names(run_folders(root)))


def run_of(model: str | Path) -> RunDirectory | None:
    """Return the run that `model` names: its directory, or its whole <experiment>/<name> or <name> below outputs."""
    folder = expand_home(model)
    if not folder.exists() and OUTPUTS.is_dir():
        with suppress(FinetuneError):
            folder = find_run(str(model), OUTPUTS, whole=True)
    run = RunDirectory(folder)
    return run if run.config_path.is_file() else None


def _names(paths: list[Path]) -> list[str]:
    return [each for path in paths for each in (_full_name(path), path.name)]


def _full_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _list_names(paths: list[Path], most: int = 5) -> str:
    names = ", ".join(_full_name(path) for path in paths[:most])
    if len(paths) > most:
        names += f" and {len(paths) - most} more"
    return names
