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
from pathlib import Path

from finetune.errors import RunError
from finetune.runs.atomic import explain, explained

_log = logging.getLogger(__name__)
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_held_handles: set[int] = set()
# `is_locked` holds a shared lock for some microseconds, which must not make a process that acquires the lock fail.
_ATTEMPTS, _SECONDS_BETWEEN_ATTEMPTS = 25, 0.02


class LockHeld(RunError):
    """Another process holds the lock."""


@contextmanager
def hold_lock(path: Path, whose: str, wait: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Hold a lock on the file `path` inside the `with` block; yields False on file systems without locks.

    If the lock is held already, by another process or this one, `wait` is called with the holder and the lock is waited
    for. The holder may delete the file. `whose` names what is locked, for the error message.

    Raises:
        LockHeld: the lock is held and `wait` is None.
        RunError: the operating system refuses.
    """
    handle, locked = _acquire(path, whose, wait)
    _held_handles.add(handle)
    try:
        yield locked
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


def _acquire(path: Path, whose: str, wait: Callable[[str], None] | None) -> tuple[int, bool]:
    while True:
        with explained(f"open {path}"):
            # Python closes the handle on exec, so a subprocess does not keep the lock.
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(handle, path, whose, wait)
        except BaseException:
            os.close(handle)
            raise
        if not locked or _is_current_file(handle, path):
            return handle, locked
        os.close(handle)  # the previous holder deleted the file: lock the new one


def _lock(handle: int, path: Path, whose: str, wait: Callable[[str], None] | None) -> bool:
    try:
        try:
            _lock_now(handle)
        except BlockingIOError as error:
            holder = os.pread(handle, 300, 0).decode(errors="replace") or "another process"
            if wait is None:
                advice = "Wait for it, stop it, or choose another name= for this run."
                raise LockHeld(f"{whose} is in use by {holder}.", advice) from error
            wait(holder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise explain(error, f"lock {path}") from error
        # Some cluster file systems have no locks; training there is allowed.
        _log.warning("%s: this file system has no locks, so a second process is not prevented.", path)
        return False
    return True


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


os.register_at_fork(after_in_child=_close_in_child)
