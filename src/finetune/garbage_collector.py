"""Settings of Python's garbage collector for short commands."""

from __future__ import annotations

import atexit
import gc
import sys
from functools import cache


@cache
def freeze_loaded_objects() -> None:
    """Exclude the existing objects from garbage collection: modules, which live until the process ends.

    A process that has not loaded torch also skips the collection at exit. Together this saves a tenth of the CPU time
    of a refused command. A run keeps the collection at exit, because libraries may rely on it.
    """
    gc.freeze()
    atexit.register(_freeze_unless_torch)


def _freeze_unless_torch() -> None:
    if "torch" not in sys.modules:
        gc.freeze()
