"""Pieces of work that several processes share without a coordinator, on one machine or several.

A process holds the lock of the piece that it works on. The kernel releases the lock when the process ends, however it
ends, so that another one takes the piece over.
"""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.runs.lock import LockHeld, hold_lock, is_locked


def do_first_free(
    pending: Sequence[int], claim: Callable[[int], Path], is_done: Callable[[int], bool], work: Callable[[int], None]
) -> bool:
    """Do the first of the pending pieces of work that no process has claimed; return whether there was one.

    On a file system without locks a piece may be done by two processes: both write the same file.

    Raises:
        RunError: the operating system refuses.
    """
    for number in _rotated(pending):
        path = claim(number)
        if is_locked(path):
            continue
        try:
            with hold_lock(path, f"shard {number}"):
                if is_done(number):  # since the list of pending pieces was made
                    continue
                work(number)
                return True
        except LockHeld:
            continue
    return False


def _rotated(pending: Sequence[int]) -> list[int]:
    """Return the pieces from another one on for every process: those that start together do not meet at each lock."""
    if not pending:
        return []
    start = zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode()) % len(pending)
    return [*pending[start:], *pending[:start]]
