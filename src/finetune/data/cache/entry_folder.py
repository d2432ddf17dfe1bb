"""The folder of a cache entry: its name, and the manifest that marks it as complete.

The manifest is a list of the files, written last. Checking a file of a few hundred MB takes under a millisecond: its
size, its modification time, and a checksum of a few blocks spread over it, which detects the zeros that a power failure
can leave. Only if the modification time differs, as after a copy, is the whole file read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
import uuid
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from finetune.runs.atomic import sync_folder

KIND = re.compile(r"[a-z][a-z_-]{0,30}")
KEY = re.compile(r"[0-9a-f]{16,128}")
MANIFEST = "manifest.json"

_DRAFT = re.compile(r"\.([0-9a-f]{16,128})\.[0-9a-f]{8}")
_FORMAT = 1
_BLOCK = 4096
_BLOCKS = 16
_READ = 1 << 20


def discard(folder: Path) -> None:
    """Remove an entry atomically: other processes never see a part of it."""
    renamed = draft_name(folder)
    folder.rename(renamed)
    if renamed.is_dir() and not renamed.is_symlink():
        shutil.rmtree(renamed)
    else:
        renamed.unlink()


def key_of(folder: Path) -> str:
    """Return the key of an entry or of a draft."""
    draft = _DRAFT.fullmatch(folder.name)
    if draft:
        return draft[1]
    return folder.name


def lock_of(folder: Path) -> Path:
    """Return the lock file of an entry, locked while a process makes or removes it."""
    return folder.with_name(f".{key_of(folder)}.lock")


def draft_name(folder: Path) -> Path:
    """Return a new name next to the entry, for a draft or for an entry that is being removed."""
    return folder.with_name(f".{key_of(folder)}.{uuid.uuid4().hex[:8]}")


def is_draft(folder: Path) -> bool:
    """Return whether this is an entry that is being made, or that a killed process left unfinished."""
    return _DRAFT.fullmatch(folder.name) is not None


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, without links."""
    try:
        with os.scandir(folder) as found:
            return [Path(each.path) for each in found if each.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def size_of(folder: Path) -> int:
    """Return the bytes of all files below `folder`."""
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def seal(folder: Path) -> None:
    """Flush every file of `folder` to disk, then write the manifest.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {**_shape(path), "sample": _sample(path), "whole": _whole(path)}
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        sync_folder(inner)
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, "made": time.time(), "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def is_whole(folder: Path) -> bool:
    """Return whether the folder has a manifest, and all files match it."""
    try:
        if folder.is_symlink():
            return False  # only folders that were made here are trusted
        files = read_manifest(folder)["files"]
        return all(_matches(folder / name, recorded) for name, recorded in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what `seal` wrote: `made` (seconds since 1970) and `files`.

    Raises:
        OSError: it is missing.
        ValueError: it is damaged, or was written by another version.
    """
    found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(f"{folder / MANIFEST} is not a list of files as this version writes it")
    return found


def _matches(path: Path, recorded: dict[str, int]) -> bool:
    found = _shape(path)
    if found["size"] != recorded["size"] or _sample(path) != recorded["sample"]:
        return False
    if found["changed"] == recorded["changed"]:
        return True
    if _whole(path) != recorded["whole"]:
        return False
    with suppress(OSError):  # so that it is not read as a whole again
        os.utime(path, ns=(recorded["changed"], recorded["changed"]))
    return True


def _shape(path: Path) -> dict[str, int]:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a plain file")
    return {"size": found.st_size, "changed": found.st_mtime_ns}


def _sample(path: Path) -> int:
    """Return a checksum of blocks spread evenly over the file, including the first and the last."""
    last = max(0, path.lstat().st_size - _BLOCK)
    checksum = 0
    with path.open("rb") as file:
        for i in range(_BLOCKS):
            file.seek(last * i // (_BLOCKS - 1))
            checksum = zlib.crc32(file.read(_BLOCK), checksum)
    return checksum


def _whole(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        for block in iter(partial(file.read, _READ), b""):
            checksum = zlib.crc32(block, checksum)
    return checksum
