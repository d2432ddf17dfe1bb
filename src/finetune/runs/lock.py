"""A lock that is held exactly as long as a process lives, whatever ends it."""

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
_held: set[int] = set()
# Whoever looks (`is_locked`) has the lock for some microseconds, in which a run that starts must not be turned away.
_LOOKS, _SECONDS_BETWEEN_LOOKS = 25, 0.02


class LockHeld(RunError):
    """Another process holds the lock."""


@contextmanager
def hold_lock(path: Path, whose: str, wait: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Holds the lock file `path` inside the `with`; the kernel frees it when the process dies.

    Where another process (or this one) holds it already, it is waited for if `wait` is given, which is then called with
    who that is. Who holds the lock may remove the file. Yields whether there is a lock: some file systems have none.

    Raises InUse, naming `whose` it is and who has it, where nobody wants to wait, and RunError when the system refuses.
    """
    handle, locked = _acquire(path, whose, wait)
    _held.add(handle)
    try:
        yield locked
    finally:
        if handle in _held:  # not so in a forked child, which closed it
            _held.discard(handle)
            os.close(handle)


def is_locked(path: Path) -> bool | None:
    """Whether a living process holds the lock file `path`; None where nobody can tell: a file system without locks.

    Raises RunError when the system refuses to open it.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise explain(error, f"open {path}") from error
    try:
        # Shared, so that two who look do not see each other.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise explain(error, f"look at the lock {path}") from error
        return None
    finally:
        os.close(handle)
    return False


def _acquire(path: Path, whose: str, wait: Callable[[str], None] | None) -> tuple[int, bool]:
    while True:
        with explained(f"open {path}"):
            # Python closes such a handle on exec, so that a started program never keeps the lock alive.
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(handle, path, whose, wait)
        except BaseException:
            os.close(handle)
            raise
        if not locked or _is_still_there(handle, path):
            return handle, locked
        os.close(handle)  # removed by whoever held it: the lock is now that of a new file


def _lock(handle: int, path: Path, whose: str, wait: Callable[[str], None] | None) -> bool:
    try:
        try:
            _try(handle)
        except BlockingIOError as error:
            holder = os.pread(handle, 300, 0).decode(errors="replace") or "another process"
            if wait is None:
                advice = "Wait for it, stop it, or give this run another name=."
                raise LockHeld(f"{whose} is in use by {holder}.", advice) from error
            wait(holder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise explain(error, f"lock {path}") from error
        # Some cluster file systems have no locks at all; refusing to train there would help nobody.
        _log.warning("%s: this file system has no locks, so nothing keeps a second process out.", path)
        return False
    return True


def _try(handle: int) -> None:
    for _ in range(_LOOKS - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _close_in_child() -> None:
    """Closes a forked child's copies: one that outlives a killed parent would keep a dead run looking alive."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
