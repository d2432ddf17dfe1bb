"""Digests of what is read and how it is read: the fingerprint of a data set, and the key of its cache entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.data.beir_folder import BeirFolder
from finetune.data.keys import keys_affecting, source_keys
from finetune.data.open_sources import OpenedSource
from finetune.data.schema.layouts import Roles
from finetune.data.settings import Data

VERSION = 4  # of the cache entries; raising it makes everything be read again
QUESTIONS_VERSION = 1  # of the questions about all values; raising it makes everything be read and checked again
_ONLY_IN_MESSAGES = ("unused", "by_user", "named")  # fields of `Roles` that do not change how columns are read


def reader_versions() -> list[int]:
    """Return the versions of what reads and prepares data; fingerprints of different ones cannot be compared."""
    from finetune.data.sources import file_source, folder_table, folders, memory, vectors

    return [VERSION, *(module.VERSION for module in (file_source, folder_table, folders, memory, vectors))]


def fingerprint_of(opened: Sequence[OpenedSource], folder: BeirFolder | None) -> str:
    """Return a digest of everything that decides what is read: contents, column roles and settings, but no path."""
    # The keys of `score_values` need not be text, so it is no JSON; it only counts where it is set.
    keys = [key for key in keys_affecting("items") if key != "score_values"]
    digest = hashlib.sha256(str(VERSION).encode())
    for one in opened:
        data = one.settings.data
        values = [one.settings.name, *(getattr(data, key) for key in keys)]
        digest.update(json.dumps([one.source.fingerprint(), values], sort_keys=True).encode())
        digest.update(repr(_reading_roles(one.roles)).encode())
        if data.score_values is not None:
            digest.update(repr(data.score_values).encode())
    if folder is not None:
        for path in folder.files:
            with path.open("rb") as file:
                digest.update(path.name.encode("utf-8", "surrogateescape"))
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _reading_roles(roles: Roles) -> dict[str, Any]:
    """Return the fields that decide how the columns in use are read."""
    values = asdict(roles) | {"lists": sorted(roles.lists)}
    return {name: value for name, value in values.items() if name not in _ONLY_IN_MESSAGES}


def cache_key(fingerprint: str, data: Data, opened: Sequence[OpenedSource]) -> str:
    """Return the key of the cache entry: the fingerprint, names and folders stored in it, and the checks it passed."""
    per_source = source_keys("checks")
    shared = [getattr(data, key) for key in keys_affecting("checks") if key not in per_source]
    names = [(one.source.shown, str(one.source.base.absolute())) for one in opened]
    checks = []
    for one in opened:
        checks.append((one.roles.by_user, *(getattr(one.settings.data, key) for key in per_source)))
    values = [fingerprint, *shared, names, [QUESTIONS_VERSION, checks]]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def file_states(paths: Iterable[str]) -> dict[str, list[int] | None]:
    """Return size and modification time (ns) of files, None for a missing one."""
    states: dict[str, list[int] | None] = {}
    for path in paths:
        try:
            status = Path(path).stat()
            states[path] = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):
            states[path] = None
    return states
