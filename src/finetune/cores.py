"""The CPU cores of this machine that this process may use."""

from __future__ import annotations

import os


def visible_cores() -> tuple[int, ...]:
    """Return the CPU cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
