"""Python's garbage collector in a process that may be over in a moment."""

from __future__ import annotations

import atexit
import gc
import sys
from functools import cache


@cache
def leave_out_what_is_loaded() -> None:
    """From now on collections leave out the objects that exist: modules, which live as long as the process anyway.

    At its end a process that has not loaded torch collects nothing. Both together are a tenth of the CPU time of a
    command that is refused. A run is left alone at its end: libraries may rely on it.
    """
    gc.freeze()
    atexit.register(_freeze_unless_it_was_a_run)


def _freeze_unless_it_was_a_run() -> None:
    if "torch" not in sys.modules:
        gc.freeze()
