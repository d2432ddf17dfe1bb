"""All runs below a folder, and one of them by its name; there is no index, so none can be wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError
from finetune.runs.record import is_run

OUTPUTS = Path("outputs")  # what conf/train.yaml has for output_root


def run_folders(root: Path) -> list[Path]:
    """The folders `root/<experiment>/<run>` that are runs; raises FinetuneError if there is no folder `root`."""
    if not root.is_dir():
        raise FinetuneError(f"there is no folder {root} with runs.", "Say with --root where they are (output_root=).")
    return [path for experiment in _folders(root) for path in _folders(experiment) if is_run(path)]


def _folders(parent: Path) -> Iterator[Path]:
    """The visible folders in one; none in what cannot be read, which is not ours to show then."""
    try:
        with os.scandir(parent) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return
    yield from (parent / name for name in names)


def find_run(name: str, root: Path, *, whole: bool = False) -> Path:
    """The one run that `name` means: a path, `<experiment>/<run>`, or a run's name or a part of it.

    With `whole` a part is not enough, as for what cannot be taken back.
    Raises FinetuneError if there is none, or more than one.
    """
    if Path(name).is_dir() and is_run(Path(name)):
        return Path(name)
    paths = run_folders(root)
    called = {path: (f"{path.parent.name}/{path.name}", path.name) for path in paths}
    found = [path for path in paths if name in called[path]]
    if not found and not whole:
        found = [path for path in paths if name in called[path][0]]
    if len(found) == 1:
        return found[0]
    if found:
        raise FinetuneError(f"'{name}' can be {len(found)} runs.", f"Give one: {_some(found)}.")
    near = did_you_mean(name, [each for path in paths for each in called[path]])
    kind = "is no run" if Path(name).exists() else f"is the name of no run in {root}"
    raise FinetuneError(f"'{name}' {kind}.", near or "`finetune runs` lists what there is.")


def _some(paths: list[Path], most: int = 5) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:most]) + more
