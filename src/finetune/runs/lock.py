"""A file lock that the kernel releases when the process that holds it ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import RunError
from finetune.runs.atomic import explain, explained

_log = logging.getLogger(__name__)
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
# The environment variable with the handle of a lock that the parent process acquired for this one.
_INHERITED = "FINETUNE_LOCK_HANDLE"
_held_handles: set[int] = set()
_inherited_handles: set[int] = set()  # those of them that `hold_lock` has not used yet
# `is_locked` holds a shared lock for some microseconds, which must not make a process that acquires the lock fail.
_HELD = "Wait for it, or stop it; a new run can have another name=."
_ATTEMPTS, _SECONDS_BETWEEN_ATTEMPTS = 25, 0.02


class LockHeld(RunError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class HeldLock:
    """A lock that this process holds; `is_supported` is False on file systems without locks.

    A child process inherits it if it is started with `environment()` and `pass_fds=[handle]`, and calls
    `adopt_inherited`. The kernel then releases it when both processes have closed the handle or ended, so the child
    keeps it after this process has left `hold_lock`, or was killed.
    """

    handle: int
    is_supported: bool

    def environment(self) -> dict[str, str]:
        """Return the environment variable that a child process needs to adopt the lock."""
        return {_INHERITED: str(self.handle)}

    def clear_holder(self) -> None:
        """Record that the holder is unknown, until `write_holder` is called or a child adopts the lock."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.handle, 0)

    def write_holder(self, process: int) -> None:
        """Record the id of the child process that inherits the lock; the child does so too when it uses it."""
        with contextlib.suppress(OSError):  # a full disk; the lock itself does not depend on it
            _write_holder(self.handle, process)


def adopt_inherited() -> None:
    """Take over the lock that the parent process acquired for this one, if any: the next `hold_lock` uses it.

    To be called before this process starts others, which would inherit the lock too.
    """
    handle = os.environ.pop(_INHERITED, "")
    if not handle.isdecimal():
        return
    with contextlib.suppress(OSError):  # the variable was inherited without the handle
        os.set_inheritable(int(handle), False)
        _held_handles.add(int(handle))
        _inherited_handles.add(int(handle))


@contextmanager
def hold_lock(
    path: Path, whose: str, wait: Callable[[str], None] | None = None, advice: str = _HELD
) -> Iterator[HeldLock]:
    """Hold a lock on the file `path` inside the `with` block.

    If the lock is held already, by another process or this one, `wait` is called with the holder and the lock is waited
    for. The holder may delete the file. `whose` names what is locked, and `advice` says what to do, both for the error.

    Raises:
        LockHeld: the lock is held and `wait` is None.
        RunError: the operating system refuses.
    """
    handle, is_supported = _acquire(path, whose, wait, advice)
    _held_handles.add(handle)
    try:
        yield HeldLock(handle, is_supported)
    finally:
        if handle in _held_handles:  # not so in a forked child, which has closed it
            _held_handles.discard(handle)
            os.close(handle)


def is_locked(path: Path) -> bool | None:
    """Whether a living process holds the lock on `path`; None on a file system without locks.

    Raises:
        RunError: the file cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise explain(error, f"open {path}") from error
    try:
        # A shared lock, so that two processes which check at the same time do not see each other.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise explain(error, f"check the lock {path}") from error
        return None
    finally:
        os.close(handle)
    return False


def _acquire(path: Path, whose: str, wait: Callable[[str], None] | None, advice: str) -> tuple[int, bool]:
    while True:
        handle = _open(path)
        try:
            locked = _lock(handle, path, whose, wait, advice)
        except BaseException:
            os.close(handle)
            raise
        if not locked or _is_current_file(handle, path):
            return handle, locked
        os.close(handle)  # the previous holder deleted the file: lock the new one


def _open(path: Path) -> int:
    """Return the inherited handle of the lock file `path` if there is one, else a new one."""
    for handle in _inherited_handles:
        if _is_current_file(handle, path):
            _inherited_handles.remove(handle)
            _held_handles.discard(handle)  # until `hold_lock` adds it again
            return handle
    with explained(f"open {path}"):
        # Python closes the handle on exec, so a subprocess does not keep the lock.
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _lock(handle: int, path: Path, whose: str, wait: Callable[[str], None] | None, advice: str) -> bool:
    try:
        try:
            _lock_now(handle)
        except BlockingIOError as error:
            holder = os.pread(handle, 300, 0).decode(errors="replace") or "another process"
            if wait is None:
                raise LockHeld(f"{whose} is in use by {holder}.", advice) from error
            wait(holder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        _write_holder(handle, os.getpid())
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise explain(error, f"lock {path}") from error
        # Some cluster file systems have no locks; training there is allowed.
        _log.warning("%s: this file system has no locks, so a second process is not prevented.", path)
        return False
    return True


def _write_holder(handle: int, process: int) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {process} on {socket.gethostname()}".encode(), 0)


def _lock_now(handle: int) -> None:
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_current_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _close_in_child() -> None:
    """Close the handles in a forked child: a child that outlives its killed parent would keep the lock."""
    for handle in _held_handles:
        os.close(handle)
    _held_handles.clear()
    _inherited_handles.clear()


os.register_at_fork(after_in_child=_close_in_child)
