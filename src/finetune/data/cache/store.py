"""The cache: results that are expensive to compute, stored under a digest of everything that they depend on.

    <root>/<kind>/<key>/             an entry: its files, and a manifest, which is written last
    <root>/<kind>/.<key>.lock        locked by the process that makes or removes the entry
    <root>/<kind>/.<key>.<random>/   a draft: an entry that is being made, or a leftover if the lock is free

An entry never changes: it is either complete or missing. So readers need no lock, and files that are memory-mapped by a
process stay available to it when the entry is removed.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from finetune.config.home import expand_home
from finetune.console import say
from finetune.data.cache.entry_folder import (
    KEY,
    KIND,
    MANIFEST,
    discard,
    draft_name,
    is_draft,
    is_whole,
    key_of,
    lock_of,
    read_manifest,
    seal,
    size_of,
    subfolders,
)
from finetune.errors import FinetuneError, RunError
from finetune.runs.atomic import explain, sync_folder
from finetune.runs.lock import LockHeld, hold_lock

T = TypeVar("T")

ELSEWHERE = "Choose another place for the cache with FINETUNE_CACHE=/path/to/a/disk."

DAY = 24 * 60 * 60


class CacheUnavailable(FinetuneError):
    """The cache cannot be written, for example because the disk is full. The user was notified; continue without it."""


@dataclass(frozen=True)
class Entry:
    """One entry: `size` in bytes, `made` and `used` in seconds since 1970."""

    kind: str
    key: str
    path: Path
    size: int
    made: float
    used: float


@dataclass(frozen=True)
class Removed:
    """What was removed, and how many entries were not because a process is making them."""

    entries: int = 0
    size: int = 0
    busy: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.entries + other.entries, self.size + other.size, self.busy + other.busy)


class Cache:
    """The cache in the folder `root`, which is created with the first entry.

    Without `root`: $FINETUNE_CACHE, else $XDG_CACHE_HOME/finetune, else ~/.cache/finetune.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The folder of the cache.

        Raises:
            CacheUnavailable: there is no home folder.
        """
        return self._root or _default_root()

    def entry(self, kind: str, key: str, build: Callable[[Path], object]) -> Path:
        """Return the folder of an entry, made by `build` if it is missing or incomplete.

        `kind` is a short lower-case word; `key` a hexadecimal digest of everything that the entry depends on. `build`
        gets an empty folder to write into. If another process is making the same entry, wait for it.

        Raises:
            CacheUnavailable: it cannot be written, or `build` raised an OSError; no partial entry stays.
        """
        if not KIND.fullmatch(kind) or not KEY.fullmatch(key):
            raise ValueError(f"{kind}/{key} is not a valid cache entry")
        folder = self.root / kind / key
        if not is_whole(folder):
            try:
                _make(folder, build)
            except OSError as error:
                raise _unavailable(explain(error, f"write to {self.root}", ELSEWHERE)) from error
        with suppress(OSError):  # a read-only cache works too
            os.utime(folder / MANIFEST)
        return folder

    def load(self, kind: str, key: str, build: Callable[[Path], object], load: Callable[[Path], T]) -> T:
        """Return what `load` reads from the folder of an entry, which is made as by `entry`.

        An entry that cannot be read is made again: another process may just have removed it, or it is damaged in a way
        that the manifest does not detect.

        Raises:
            CacheUnavailable: as `entry` does.
        """
        folder = self.entry(kind, key, build)
        try:
            return load(folder)
        except (OSError, ValueError, KeyError):
            try:
                self.remove([folder])
            except RunError as error:
                raise _unavailable(error) from error
        return load(self.entry(kind, key, build))

    def entries(self) -> list[Entry]:
        """Return all entries, in the order of their last use."""
        found = (_describe(folder) for folder in self._folders() if KEY.fullmatch(folder.name))
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.used)

    def drafts(self) -> list[Path]:
        """Return the folders of entries that are being made, or that a killed process left unfinished."""
        return list(filter(is_draft, self._folders()))

    def stale(self, older_than: float | None, keep: int | None) -> list[Path]:
        """Return entries that were not used for `older_than` seconds, and of the rest the least recently used, so that
        at most `keep` bytes stay; None sets no limit.
        """
        entries, now = self.entries(), time.time()
        old: list[Entry] = []
        if older_than is not None:
            old = [entry for entry in entries if now - entry.used >= older_than]
        if keep is not None:
            rest = entries[len(old) :]  # in the order of their last use
            excess = sum(entry.size for entry in rest) - keep
            for entry in rest:
                if excess <= 0:
                    break
                old.append(entry)
                excess -= entry.size
        return [entry.path for entry in old]

    def remove(self, folders: Iterable[Path]) -> Removed:
        """Remove these entries, except those that a process is making.

        Raises:
            RunError: an entry cannot be removed.
        """
        return _remove_all(folders)

    def remove_leftovers(self) -> Removed:
        """Remove the drafts of killed processes.

        Raises:
            RunError: an entry cannot be removed.
        """
        return _remove_all(self.drafts())

    def _folders(self) -> Iterator[Path]:
        """Yield every folder that may be an entry or a draft; links are not followed, other names ignored."""
        for kind in subfolders(self.root):
            if KIND.fullmatch(kind.name):
                yield from subfolders(kind)


def _default_root() -> Path:
    own = os.environ.get("FINETUNE_CACHE", "")
    if own:
        return expand_home(own).absolute()
    user = os.environ.get("XDG_CACHE_HOME", "")
    if Path(user).is_absolute():
        return Path(user) / "finetune"
    try:
        return Path.home() / ".cache" / "finetune"
    except RuntimeError as error:
        raise _unavailable(RunError("there is no home folder.", ELSEWHERE)) from error


def _make(folder: Path, build: Callable[[Path], object]) -> None:
    with ExitStack() as stack:
        locked = _lock(folder, stack)
        _remove_leftovers(folder, locked=locked)
        if not is_whole(folder):  # otherwise another process has just made it
            _make_alone(folder, build, locked=locked)


def _lock(folder: Path, stack: ExitStack) -> bool:
    """Lock an entry until `stack` closes; returns whether the file system supports locks."""
    if folder.parent.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "is a link", str(folder.parent))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        # All parents exist: the file system does not support folders there, as in /proc.
        raise PermissionError(errno.EPERM, "no folder can be made there", str(folder.parent)) from error
    lock = lock_of(folder)

    def wait(holder: str) -> None:
        say(f"waiting for {holder}, which makes the same {folder.parent.name}")

    try:
        held = stack.enter_context(hold_lock(lock, f"the cache entry {folder}", wait))
    except RunError as error:
        raise error.__cause__ or error from None  # the OSError; the caller explains it with advice for the cache
    stack.callback(lock.unlink, missing_ok=True)  # while it is locked; a waiting process then creates a new one
    return held.is_supported


def _remove_leftovers(folder: Path, *, locked: bool) -> None:
    """Remove the drafts of killed processes, of this entry, which is locked, and of its neighbors."""
    for draft in filter(is_draft, subfolders(folder.parent)):
        with suppress(RunError, OSError):  # for example a draft of another user
            if locked and key_of(draft) == folder.name:
                shutil.rmtree(draft)
            else:
                _remove(draft)


def _make_alone(folder: Path, build: Callable[[Path], object], *, locked: bool) -> None:
    draft = draft_name(folder)
    draft.mkdir()
    try:
        build(draft)
        seal(draft)
        if os.path.lexists(folder):
            discard(folder)  # it is damaged
        try:
            draft.rename(folder)
        except OSError:
            if locked or not is_whole(folder):  # without locks another process may have been faster
                raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_all(folders: Iterable[Path]) -> Removed:
    return sum(map(_remove, folders), Removed())


def _remove(folder: Path) -> Removed:
    lock = lock_of(folder)
    if not os.path.lexists(folder):
        return Removed()  # another process removed it
    try:
        with hold_lock(lock, f"the cache entry {folder}") as held:
            if not held.is_supported and is_draft(folder) and time.time() - folder.stat().st_mtime < DAY:
                return Removed(busy=1)  # without locks, only its age shows that no process writes there
            size = size_of(folder)
            discard(folder)
            lock.unlink(missing_ok=True)
            return Removed(1, size)
    except LockHeld:
        return Removed(busy=1)
    except FileNotFoundError:
        return Removed()
    except OSError as error:
        raise explain(error, f"remove {folder}", "Ask whose cache it is.") from error


def _describe(folder: Path) -> Entry | None:
    """Return the facts of an entry; None if it is no entry, or is being removed."""
    try:
        used = (folder / MANIFEST).stat().st_mtime
        size = size_of(folder)
    except OSError:
        return None
    try:
        made = float(read_manifest(folder)["made"])
    except (OSError, ValueError, KeyError, TypeError):
        made = used  # damaged
    return Entry(folder.parent.name, folder.name, folder, size, made, used)


def _unavailable(error: RunError) -> CacheUnavailable:
    _say_once(f"continuing without the cache: {error}")
    return CacheUnavailable(error.what, error.advice)


@cache
def _say_once(text: str) -> None:
    say(text)
