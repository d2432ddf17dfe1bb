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


def set_defaults() -> None:
    """Set the variables that are not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
