"""Environment variables of native libraries, which must be set before torch is imported.

Variables that are already set are kept. Imports only `os`, because it is called first in every process of a run.
"""

from __future__ import annotations

import os

DEFAULTS = {
    # oneDNN and torch cache a compiled kernel for each shape of a matrix product, a thousand by default. Texts have
    # many different shapes: memory grows by gigabytes, and lookups get slower.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
# How often an OpenMP thread polls for the others before it sleeps; 300,000 by default. Next to a busy process it may
# wait for a thread that has no core. See "Next to busy processes" in docs/benchmarks.md.
SPINS = 10_000
SPINS_WHEN_BUSY = 1_000
_LOAD = "/proc/loadavg"


def set_defaults() -> None:
    """Set the variables that are not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in os.environ:  # GOMP_SPINCOUNT would override it
        spins = SPINS_WHEN_BUSY if _others_are_busy() else SPINS
        os.environ.setdefault("GOMP_SPINCOUNT", str(spins))


def _others_are_busy() -> bool:
    """Return whether other processes have recently kept a core busy and one is running; false except on Linux."""
    try:
        with open(_LOAD, encoding="ascii") as file:  # noqa: PTH123 - pathlib would have to be imported
            load, _, _, running, *_ = file.read().split()
        return float(load) > 0.7 and int(running.partition("/")[0]) > 1
    except (OSError, ValueError):
        return False
