"""Results of a comparison: one JSON object per line, appended as each is measured, so that it can be interrupted.

A result has the fields of a case (`CASE`; `data` is a digest of the files of the task), `version` (the commit that
measured it), `device`, `training` (facts, see trainers.py) and `ndcg` (values per query, by evaluation). A result
of the model before training has the configuration `untouched`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNTOUCHED = "untouched"
CASE = ("task", "data", "configuration", "definition", "seed", "limit", "documents", "model", "max_length", "precision")


def key_of(result: dict[str, Any]) -> str:
    """Return what identifies a result or a case. A configuration whose definition was changed is another one."""
    return json.dumps([result.get(field) for field in CASE], sort_keys=True)


def read_results(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the results of files, of each case the last one; a line cut off by a kill is ignored."""
    results = {}
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                result = json.loads(line)
            except json.JSONDecodeError:
                continue
            results[key_of(result)] = result
    return list(results.values())


def append(path: Path, result: dict[str, Any]) -> None:
    """Append a result as a line of its own, and wait until it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and not _ends_with_newline(file):
            file.write(b"\n")
        file.write(json.dumps(result).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold a lock on a file of results, which ends with the process.

    Raises:
        BlockingIOError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(path.suffix + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
