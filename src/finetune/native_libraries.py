"""What native libraries read from the environment when they are loaded, so before torch is imported.

A user's own settings are kept. Imports nothing but `os`: it is called first in every process of a run.
"""

from __future__ import annotations

import os

DEFAULTS = {
    # oneDNN and torch keep a compiled kernel for each new shape of a matrix product, a thousand by default. Texts come
    # in ever new shapes: memory grows by gigabytes, and looking kernels up gets slower.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
# How often a thread of OpenMP looks for the others before it sleeps; 300,000 by default. Next to a busy process it may
# look for one that has no core. See "Next to busy processes" in docs/benchmarks.md.
SPINS = 10_000
SPINS_WHEN_BUSY = 1_000
_LOAD = "/proc/loadavg"


def set_defaults() -> None:
    """Set the variables that are not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in os.environ:  # which the number of spins would override
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS_WHEN_BUSY if _others_are_busy() else SPINS))


def _others_are_busy() -> bool:
    """Whether other processes have kept a core busy lately and one runs now; only Linux tells."""
    try:
        with open(_LOAD, encoding="ascii") as file:  # noqa: PTH123 - pathlib would have to be imported
            load, _, _, running, *_ = file.read().split()
        return float(load) > 0.7 and int(running.partition("/")[0]) > 1
    except (OSError, ValueError):
        return False
