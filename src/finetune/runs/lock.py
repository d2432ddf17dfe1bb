"""A lock that is held exactly as long as a process lives, whatever ends it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import RunError
from finetune.runs.atomic import explained

_log = logging.getLogger(__name__)
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_held: set[int] = set()


@contextmanager
def held(path: Path, whose: str) -> Iterator[None]:
    """Holds the lock file `path` inside the `with`; the kernel frees it when the process dies.

    Raises RunError, naming `whose` it is and who has it, when another process (or this one) holds it already.
    """
    handle = _acquire(path, whose)
    _held.add(handle)
    try:
        yield
    finally:
        if handle in _held:  # not so in a forked child, which closed it
            _held.discard(handle)
            os.close(handle)


def _acquire(path: Path, whose: str) -> int:
    with explained(f"open {path}"):
        # Python closes such a handle on exec, so that a started program never keeps the lock alive.
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(handle, 300, 0).decode(errors="replace") or "another process"
        os.close(handle)
        raise RunError(
            f"{whose} is in use by {holder}.", "Wait for it, stop it, or give this run another name=."
        ) from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            os.close(handle)
            with explained(f"lock {path}"):
                raise
        # Some cluster file systems have no locks at all; refusing to train there would help nobody.
        _log.warning("%s: this file system has no locks, so nothing keeps a second process out of this run.", path)
    return handle


def _close_in_child() -> None:
    """Closes a forked child's copies: one that outlives a killed parent would keep a dead run looking alive."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
