"""What the tests share when pytest-xdist runs them in several worker processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def file_lock(path: Path, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock on a file, exclusive or shared, over the `with` block."""
    with path.open("w") as file:
        fcntl.flock(file, mode)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing it is not enough while a forked process has it open as well


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Any]) -> Any:
    """Return what `build` makes in a folder of its own; it runs in one worker, and the others wait for it.

    Args:
        factory: pytest's temporary folders.
        name: of the folder; one per fixture.
        build: makes the files and returns an object that can be pickled. Tests must not change the files.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, result = root / name, root / f"{name}.pickle"
    with file_lock(root / f"{name}.lock"):
        if not result.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker in which it failed
            folder.mkdir()
            result.write_bytes(pickle.dumps(build(folder)))
        return pickle.loads(result.read_bytes())


@contextlib.contextmanager
def turn(folder: Path, alone: bool) -> Iterator[None]:
    """Run one test: with `alone` no other worker runs one at the same time.

    Workers wait in the order in which they came, so a test that runs alone is not overtaken by those that need not.
    """
    with contextlib.ExitStack() as stack:
        with file_lock(folder / "queue.lock"):
            stack.enter_context(file_lock(folder / "running.lock", fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield
