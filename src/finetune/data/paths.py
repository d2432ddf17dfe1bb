"""From what stands in a config to a file on the disk."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path, PurePosixPath

from finetune.data.beir_folder import beir_inside
from finetune.errors import CheckFailed, Problem

SHIPPED = "shipped://"
_DATA = {".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".npy", ".npz"}


def resolve(path: str, key: str = "data.path") -> Path:
    """Return the path that `path` means: as it is, `~` expanded, or a data set that comes with finetune.

    `shipped://NAME/FILE` is a file inside the package `finetune.datasets`; it raises `CheckFailed`, naming `key`,
    if there is no such file, or for a URL. Whether any other path exists is not looked at.
    """
    if not path.startswith(SHIPPED) and re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE):
        what = f"'{path}' is a URL, which only data.path may be."
        raise CheckFailed([Problem(key, what, "Download it and give its path here.")])
    if not path.startswith(SHIPPED):
        try:
            return Path(path).expanduser()
        except RuntimeError:  # ~nobody: no such user
            return Path(path)
    inner = PurePosixPath(path.removeprefix(SHIPPED))
    # A shipped name never leaves the package, whoever wrote the config.
    if inner.is_absolute() or ".." in inner.parts or "\\" in str(inner) or "\0" in path:
        raise CheckFailed([Problem(key, f"'{path}' leaves the data that ships with finetune.", _what_ships())])
    found = _shipped_root() / inner
    if not found.exists() or found == _shipped_root():
        raise CheckFailed([Problem(key, f"no data of the name '{path}' ships with finetune.", _what_ships())])
    return found


def suggest_siblings(path: Path, *, only_beir: bool = False) -> str:
    """Return advice that names what is like the missing `path` in the folder where it was looked for.

    BEIR folders come before files; with `only_beir` there are no files.
    """
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder '{folder}' either."
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    folders = beir_inside(folder)
    names = folders if only_beir else names
    close = get_close_matches(path.name, names, n=3, cutoff=0.5)
    if not close:
        data = [name for name in names if not _DATA.isdisjoint(map(str.lower, Path(name).suffixes[-2:]))]
        close = list(dict.fromkeys([*folders, *data]))[:5]
    return f"In {folder} there is: {', '.join(close)}." if close else ""


def _shipped_root() -> Path:
    return Path(str(files("finetune.datasets")))


def _what_ships() -> str:
    root = _shipped_root()
    names = sorted(f"{SHIPPED}{file.relative_to(root).as_posix()}" for file in root.glob("*/*.csv"))
    return f"What ships: {', '.join(names)}." if names else "No data ships with this installation."
