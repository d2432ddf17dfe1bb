"""The cache: what is costly to make and can be made again, kept under a digest of all that it is made from.

    <root>/<kind>/<key>/             an entry: its files, and the list of them, which is written last
    <root>/<kind>/.<key>.lock        held by the process that makes or removes the entry
    <root>/<kind>/.<key>.<random>/   an entry in the making; what a killed process left when nobody holds the lock

An entry never changes: it is there, whole, or it is not. So readers need no lock, and files that are mapped into the
memory of a process live on there when the entry is removed.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from finetune.console import say
from finetune.data.cache.folders import KEY, KIND, another_name, discard, is_draft, key_of, lock_of, size_of, subfolders
from finetune.data.cache.manifest import MANIFEST, is_whole, read_manifest, seal
from finetune.errors import FinetuneError, RunError
from finetune.runs.atomic import explain, sync_folder
from finetune.runs.lock import LockHeld, hold_lock

T = TypeVar("T")

ELSEWHERE = "Choose another place for the cache with FINETUNE_CACHE=/path/to/a/disk."

DAY = 24 * 60 * 60


class CacheUnavailable(FinetuneError):
    """Nothing can be kept in the cache: the disk is full, say. It was said already; the caller does without."""


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
    """What a cleaning removed, and how many entries stayed because a process makes them just now."""

    entries: int = 0
    size: int = 0
    busy: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.entries + other.entries, self.size + other.size, self.busy + other.busy)


class Cache:
    """The cache in the folder `root`, which is made when something is first kept.

    Without `root`: $FINETUNE_CACHE, else $XDG_CACHE_HOME/finetune, else ~/.cache/finetune.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The folder of the cache.

        Raises:
            CacheUnavailable: there is no home folder to keep it in.
        """
        return self._root or _default_root()

    def entry(self, kind: str, key: str, build: Callable[[Path], object]) -> Path:
        """Return the folder of an entry, made by `build` if it is not there whole.

        `kind` is a short word in small letters; `key` a hexadecimal digest of all that the entry is made from. `build`
        is given an empty folder to write into. When another process makes the same entry just now, it is waited for.

        Raises:
            CacheUnavailable: it cannot be kept, or `build` met an OSError; nothing half-written stays.
        """
        if not KIND.fullmatch(kind) or not KEY.fullmatch(key):
            raise ValueError(f"{kind}/{key} is no place in a cache")
        folder = self.root / kind / key
        if not is_whole(folder):
            try:
                _make(folder, build)
            except OSError as error:
                raise _unavailable(explain(error, f"write to {self.root}", ELSEWHERE)) from error
        with suppress(OSError):  # a cache that may only be read is as good
            os.utime(folder / MANIFEST)
        return folder

    def load(self, kind: str, key: str, build: Callable[[Path], object], load: Callable[[Path], T]) -> T:
        """Return what `load` reads from the folder of an entry, which is made as by `entry`.

        An entry that cannot be read after all is made once more: somebody may have removed it at this very moment, or
        its damage is where a glance does not reach.

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
        """Return all entries, those used last at the end."""
        found = (_describe(folder) for folder in self._folders() if KEY.fullmatch(folder.name))
        return sorted((entry for entry in found if entry), key=lambda entry: entry.used)

    def drafts(self) -> list[Path]:
        """Return the folders of entries that are being made, or were when their maker was killed."""
        return list(filter(is_draft, self._folders()))

    def stale(self, older_than: float | None, keep: int | None) -> list[Path]:
        """Return entries not used for `older_than` seconds, and of the others those used longest ago, so that at most
        `keep` bytes stay; None sets no bound.
        """
        entries, now = self.entries(), time.time()
        old = [entry for entry in entries if older_than is not None and now - entry.used >= older_than]
        rest = entries[len(old) :]  # they are in the order of their last use
        over = sum(entry.size for entry in rest) - (math.inf if keep is None else keep)
        for entry in rest:
            if over <= 0:
                break
            old.append(entry)
            over -= entry.size
        return [entry.path for entry in old]

    def remove(self, folders: Iterable[Path]) -> Removed:
        """Remove these entries, but none that a process makes just now.

        Raises:
            RunError: the system refuses.
        """
        return _remove_all(folders)

    def remove_leftovers(self) -> Removed:
        """Remove what killed processes left behind.

        Raises:
            RunError: the system refuses.
        """
        return _remove_all(self.drafts())

    def _folders(self) -> Iterator[Path]:
        """Return every folder that may be an entry or a draft; links are not followed, strange names left alone."""
        for kind in subfolders(self.root):
            if KIND.fullmatch(kind.name):
                yield from subfolders(kind)


def _default_root() -> Path:
    if told := os.environ.get("FINETUNE_CACHE"):
        return Path(told).expanduser().absolute()
    told = os.environ.get("XDG_CACHE_HOME", "")
    if Path(told).is_absolute():
        return Path(told) / "finetune"
    try:
        return Path.home() / ".cache" / "finetune"
    except RuntimeError as error:
        raise _unavailable(RunError("there is no home folder.", ELSEWHERE)) from error


def _make(folder: Path, build: Callable[[Path], object]) -> None:
    with ExitStack() as stack:
        locked = _lock(folder, stack)
        _remove_leftovers(folder, locked=locked)
        if not is_whole(folder):  # or another process has just made it
            _make_alone(folder, build, locked=locked)


def _lock(folder: Path, stack: ExitStack) -> bool:
    """Hold the lock of an entry until `stack` closes; returns whether there is one."""
    if folder.parent.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "is a link", str(folder.parent))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        # All parents are made: it is the system that has no place for them there, as in /proc.
        raise PermissionError(errno.EPERM, "no folder can be made there", str(folder.parent)) from error
    lock = lock_of(folder)

    def wait(holder: str) -> None:
        say(f"waiting for {holder}, which makes the same {folder.parent.name}")

    try:
        locked = stack.enter_context(hold_lock(lock, f"the cache entry {folder}", wait))
    except RunError as error:
        raise error.__cause__ or error from None  # the OSError, to be explained with an advice that fits a cache
    stack.callback(lock.unlink, missing_ok=True)  # while it is held; who waits for it then takes a new one
    return locked


def _remove_leftovers(folder: Path, *, locked: bool) -> None:
    """Remove what killed processes left in the making, of this entry, which is locked, and of its neighbours."""
    for draft in filter(is_draft, subfolders(folder.parent)):
        with suppress(RunError, OSError):  # another user's, say
            if locked and key_of(draft) == folder.name:
                shutil.rmtree(draft)
            else:
                _remove(draft)


def _make_alone(folder: Path, build: Callable[[Path], object], *, locked: bool) -> None:
    draft = another_name(folder)
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
        return Removed()  # another process was faster
    try:
        with hold_lock(lock, f"the cache entry {folder}") as locked:
            if not locked and is_draft(folder) and time.time() - folder.stat().st_mtime < DAY:
                return Removed(busy=1)  # without locks only its age tells that nobody writes there any more
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
    """Return what is known of an entry; None if it is none, or is being removed."""
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


def _unavailable(refusal: RunError) -> CacheUnavailable:
    _say_once(f"going on without the cache: {refusal}")
    return CacheUnavailable(refusal.what, refusal.advice)


@cache
def _say_once(text: str) -> None:
    say(text)
