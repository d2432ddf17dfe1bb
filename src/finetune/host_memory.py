"""The main memory that is still available to this process, as far as the system reports it."""

from __future__ import annotations

import contextlib
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that this process can still allocate: of the machine or of its container, whichever is less."""
    limits = [limit for limit in (_available_of_machine(), _available_of_container()) if limit is not None]
    return min(limits, default=None)


def _available_of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _available_of_container() -> int | None:
    with contextlib.suppress(OSError, ValueError):  # ValueError: the limit is "max", which is none
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        return max(limit - used, 0)
    return None
