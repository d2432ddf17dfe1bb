"""From a path in a config to a file on disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.config.home import expand_home
from finetune.data.beir_folder import beir_inside
from finetune.errors import CheckFailed, Problem

SHIPPED = "shipped://"
_DATA = {".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".npy", ".npz"}


def names_files(data: Any) -> bool:
    """Return whether `data` names files: a path, a URL, a pattern, or a list of them; other data is in memory."""
    if isinstance(data, str | Path):
        return True
    return isinstance(data, Sequence) and bool(data) and all(isinstance(path, str | Path) for path in data)


def resolve(path: str, key: str = "data.path") -> Path:
    """Return the file of a path in a config: as it is, with `~` expanded, or a data set that ships with finetune.

    `shipped://NAME/FILE` is a file inside the package `finetune.datasets`. Whether any other path exists is not
    checked.

    Raises:
        CheckFailed: at `key`: no such data ships with finetune, or the path is a URL.
    """
    if path.startswith(SHIPPED):
        return _resolve_shipped(path, key)
    if re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE):
        what = f"'{path}' is a URL, which only data.path may be."
        raise CheckFailed([Problem(key, what, "Download it and give its path here.")])
    return expand_home(path)


def _resolve_shipped(path: str, key: str) -> Path:
    inner = PurePosixPath(path.removeprefix(SHIPPED))
    # A shipped path must stay inside the package: the config may be from another person.
    if inner.is_absolute() or ".." in inner.parts or "\\" in str(inner) or "\0" in path:
        raise CheckFailed([Problem(key, f"'{path}' leaves the data that ships with finetune.", _what_ships())])
    found = _shipped_root() / inner
    if not found.exists() or found == _shipped_root():
        raise CheckFailed([Problem(key, f"no data of the name '{path}' ships with finetune.", _what_ships())])
    return found


def suggest_siblings(path: Path, *, only_beir: bool = False) -> str:
    """Return advice that names files with a similar name in the folder of the missing `path`.

    BEIR folders come before files; with `only_beir` there are only BEIR folders.
    """
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder '{folder}' either."
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    folders = beir_inside(folder)
    if only_beir:
        names = folders
    similar = get_close_matches(path.name, names, n=3, cutoff=0.5)
    if not similar:
        data_files = [name for name in names if not _DATA.isdisjoint(map(str.lower, Path(name).suffixes[-2:]))]
        similar = list(dict.fromkeys([*folders, *data_files]))[:5]
    if not similar:
        return ""
    where = "this folder" if str(folder) == "." else folder
    return f"In {where} there is: {', '.join(similar)}."


def _shipped_root() -> Path:
    return Path(str(files("finetune.datasets")))


def _what_ships() -> str:
    root = _shipped_root()
    names = sorted(f"{SHIPPED}{file.relative_to(root).as_posix()}" for file in root.glob("*/*.csv"))
    if not names:
        return "No data ships with this installation."
    return f"What ships: {', '.join(names)}."
