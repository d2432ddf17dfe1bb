"""Data that was given in memory: kept as files below the folder of all runs, named by their content, once each.

A run reads such a file like any other, so that it can be resumed and repeated. The file is removed with the last run
that uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from finetune.console import say
from finetune.runs.atomic import explained, open_atomically
from finetune.runs.lock import LockHeld, hold_lock

FOLDER = ".data"  # hidden, so that it is not taken for an experiment


@contextmanager
def kept(root: Path, digest: str, write: Callable[[BinaryIO], object]) -> Iterator[Path]:
    """Provide the file of some content below `root`, written by `write` if there is none.

    After the `with` block it stays if a run uses it, and is removed otherwise. Another process that asks for the same
    content waits until then.

    Raises:
        RunError: the operating system refuses.
    """
    folder = root / FOLDER
    path = folder / f"{digest[:32]}.parquet"
    had_root = root.exists()
    try:
        with explained(f"create the folder {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(_lock_of(path), f"the data {path}", _say_waiting):
            try:
                if not path.exists():
                    # Always the same draft, under the lock: what a killed process left is replaced.
                    with open_atomically(path, path.with_suffix(".tmp")) as file:
                        write(file)
                yield path
            finally:
                _remove_if_unused(path, root)
    finally:
        with contextlib.suppress(OSError):  # not empty: other data, or a run
            folder.rmdir()
            if not had_root:
                root.rmdir()


def remove_unused(root: Path) -> None:
    """Remove the files of content that no run below `root` uses any more."""
    folder = root / FOLDER
    for path in folder.glob("*.parquet"):
        with contextlib.suppress(LockHeld), hold_lock(_lock_of(path), f"the data {path}"):
            _remove_if_unused(path, root)
    with contextlib.suppress(OSError):
        folder.rmdir()


def is_used(path: Path, root: Path) -> bool:
    """Return whether a run below `root` was started with this file."""
    name = path.name.encode()
    for overrides in root.glob("*/*/overrides.yaml"):
        with contextlib.suppress(OSError):  # it has just been removed
            if name in overrides.read_bytes():
                return True
    return False


def _remove_if_unused(path: Path, root: Path) -> None:
    """Remove a file that no run uses; to be called while holding its lock, which is removed too."""
    if not is_used(path, root):
        path.unlink(missing_ok=True)
    _lock_of(path).unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _say_waiting(holder: str) -> None:
    say(f"waiting for {holder}, which reads the same data")
