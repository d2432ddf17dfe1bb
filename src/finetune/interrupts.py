"""Ctrl-C at every moment: one line and exit code 130, whatever it interrupts.

An exception that comes in the middle of an import, a destructor or a parser leaves as whatever that code makes of it,
or not at all. So the process ends at once while it has made nothing, and later it is remembered that somebody asked.

Imports next to nothing: until `end_at_once` is called, Ctrl-C is a traceback.
"""

from __future__ import annotations

import os
import signal
import sys

from finetune import processes

LINE = "Stopped by Ctrl-C."
EXIT_CODE = 130
_asked: list[bool] = []


def end_at_once() -> None:
    """From now on Ctrl-C ends the process where it stands: there is nothing to clean up."""
    if _can_listen():
        signal.signal(signal.SIGINT, _end)


def raise_from_now_on() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, so that what was made can be finished or taken away."""
    if _can_listen():
        signal.signal(signal.SIGINT, _raise)


def asked() -> bool:
    """Whether Ctrl-C was pressed since `raise_from_now_on`, and any error may be its doing."""
    return bool(_asked)


def _can_listen() -> bool:
    try:
        # Who started this process may want it deaf (nohup).
        return signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT)) is not signal.SIG_IGN
    except ValueError:  # not in the main thread
        return False


def _end(*_: object) -> None:
    try:  # noqa: SIM105 - contextlib would have to be imported
        sys.stdout.flush()
    except Exception:  # what was interrupted may hold the stream
        pass
    if processes.is_first():
        os.write(2, f"{LINE}\n".encode())
    os._exit(EXIT_CODE)


def _raise(*_: object) -> None:
    _asked.append(True)
    raise KeyboardInterrupt
