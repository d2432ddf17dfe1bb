"""What tells a whole folder from one that was cut off or damaged: a list of its files, written last.

A file of a few hundred MB is looked at in under a millisecond: its size, the time of its last change, and a checksum of
a few blocks spread over it, which meets the zeros that a power cut can leave. Only where that time is another one, as
after a copy, is the whole file read.
"""

from __future__ import annotations

import json
import os
import stat
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune.runs.atomic import sync_folder

MANIFEST = "manifest.json"

_FORMAT = 1
_BLOCK = 4096
_BLOCKS = 16
_READ = 1 << 20


def seal(folder: Path) -> None:
    """Put every file of `folder` on the disk, then write the list of them.

    Raises:
        OSError: the disk is full, say.
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
    """Return whether the folder has a list of its files, and they are all as it says."""
    try:
        if folder.is_symlink():
            return False  # what is trusted here was made here
        files = read_manifest(folder)["files"]
        return all(_is_as_said(folder / name, said) for name, said in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what `seal` wrote: `made` (seconds since 1970) and `files`.

    Raises:
        OSError: there is none.
        ValueError: it is damaged, or another version wrote it.
    """
    found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(f"{folder / MANIFEST} is not a list of files as this version writes it")
    return found


def _is_as_said(path: Path, said: dict[str, int]) -> bool:
    found = _shape(path)
    if found["size"] != said["size"] or _sample(path) != said["sample"]:
        return False
    if found["changed"] == said["changed"]:
        return True
    if _whole(path) != said["whole"]:
        return False
    with suppress(OSError):  # so that it need not be read whole the next time
        os.utime(path, ns=(said["changed"], said["changed"]))
    return True


def _shape(path: Path) -> dict[str, int]:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a plain file")
    return {"size": found.st_size, "changed": found.st_mtime_ns}


def _sample(path: Path) -> int:
    """Return a checksum of blocks spread evenly over the file, the first and the last among them."""
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
        while block := file.read(_READ):
            checksum = zlib.crc32(block, checksum)
    return checksum
