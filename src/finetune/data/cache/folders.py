"""The names of folders in the cache (see `cache.py`), and what is done with them."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

KIND = re.compile(r"[a-z][a-z_-]{0,30}")
KEY = re.compile(r"[0-9a-f]{16,128}")
_DRAFT = re.compile(r"\.([0-9a-f]{16,128})\.[0-9a-f]{8}")


def discard(folder: Path) -> None:
    """Remove an entry in such a way that no moment shows half of it."""
    aside = another_name(folder)
    folder.rename(aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def key_of(folder: Path) -> str:
    """Return the key of an entry, made or in the making."""
    draft = _DRAFT.fullmatch(folder.name)
    return draft[1] if draft else folder.name


def lock_of(folder: Path) -> Path:
    """Return the file whose lock is held by who makes or removes the entry."""
    return folder.with_name(f".{key_of(folder)}.lock")


def another_name(folder: Path) -> Path:
    """Return a new name beside the entry, for one in the making or one that goes."""
    return folder.with_name(f".{key_of(folder)}.{uuid.uuid4().hex[:8]}")


def is_draft(folder: Path) -> bool:
    """Return whether this is an entry in the making, or what a killed process left of one."""
    return _DRAFT.fullmatch(folder.name) is not None


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`; links are none."""
    try:
        with os.scandir(folder) as found:
            return [Path(each.path) for each in found if each.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def size_of(folder: Path) -> int:
    """Return the bytes of all files below `folder`."""
    return sum(path.lstat().st_size for path in folder.rglob("*"))
