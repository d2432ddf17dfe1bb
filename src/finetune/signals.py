"""The signals that ask this process to stop: Ctrl-C at every moment, SIGTERM and SIGHUP once there is a run.

An exception that comes in the middle of an import, a destructor or a parser leaves as whatever that code makes of it,
or not at all. So the process ends at once while it has made nothing, and later it is remembered that somebody asked.

SIGHUP, from a terminal that closes, is treated as SIGTERM; where it is ignored (nohup) it stays ignored. SIGQUIT
(Ctrl-backslash) keeps its default: it ends a process that does not answer, at once and without saving.

Imports next to nothing: until `end_at_once` is called, Ctrl-C is a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any

    Handler = Callable[[int, FrameType | None], None]

LINE = "Stopped by Ctrl-C."
EXIT_CODE = 130
# Where a system has no SIGHUP (Windows), a terminal that closes ends the process.
STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
ALL = (signal.SIGINT, *STOPS)
_SECONDS_OF_A_REPEAT = 1.0
_asked: list[tuple[float, int]] = []  # when, and by which signal


def end_at_once() -> None:
    """From now on Ctrl-C ends the process where it is: there is nothing to clean up."""
    listen([signal.SIGINT], _end)


def raise_from_now_on() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, so that what was made can be finished or removed."""
    listen([signal.SIGINT], raise_stop)


def asked() -> bool:
    """Whether a person or the system asked this process to stop, so that any error may be a consequence of it."""
    return bool(_asked)


def asked_by() -> str | None:
    """Return the name of the last signal that asked this process to stop; None if there was none."""
    return called(_asked[-1][1]) if _asked else None


def forget() -> None:
    """Forget what was asked: the next run of this process has not been stopped."""
    _asked.clear()


def called(number: int) -> str:
    """Return what a signal is called in messages."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def is_repeat(number: int) -> bool:
    """Return whether a signal repeats the last one; if not, it is a request of its own and is remembered.

    Wrappers (`timeout`, `uv run`) pass on what the terminal sent to all its processes, and a terminal that closes sends
    SIGHUP several times. Neither is a second request, which would end the process without saving.
    """
    now = time.monotonic()
    if _asked and (number not in (signal.SIGINT, signal.SIGTERM) or now - _asked[-1][0] < _SECONDS_OF_A_REPEAT):
        return True
    _asked.append((now, number))
    return False


def raise_stop(number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; the handler of a signal that asks to stop."""
    if not is_repeat(number):
        raise KeyboardInterrupt(called(number))


def listen(
    numbers: Iterable[int], handler: Handler | signal.Handlers, although_ignored: Iterable[int] = ()
) -> dict[int, Any]:
    """Install a handler for signals that are not ignored, or are among `although_ignored`.

    Returns what `restore` takes back. Only the main thread may install one, so nothing happens in another thread: the
    program that started it decides.
    """
    before: dict[int, Any] = {}
    for number in numbers:
        previous = signal.getsignal(number)
        if previous is signal.SIG_IGN and number not in although_ignored:
            continue  # set by the process that started this one (nohup)
        try:
            signal.signal(number, handler)
        except ValueError:  # not in the main thread
            return {}
        before[number] = previous
    return before


def restore(before: dict[int, Any]) -> None:
    """Take back what `listen` did."""
    for number, handler in before.items():
        # None: it was installed by C code, and Python cannot install it again.
        if handler is not None:
            signal.signal(number, handler)


class Listening:
    """A context in which a handler is installed, as `listen` does it."""

    def __init__(self, numbers: Iterable[int], handler: Handler | signal.Handlers) -> None:
        self._numbers, self._handler = numbers, handler

    def __enter__(self) -> None:
        self._before = listen(self._numbers, self._handler)

    def __exit__(self, *_: object) -> None:
        restore(self._before)


def _end(*_: object) -> None:
    try:  # noqa: SIM105 - contextlib would have to be imported
        sys.stdout.flush()
    except Exception:  # what was interrupted may hold the stream
        pass
    try:
        is_first = sys.modules["finetune.ranks"].is_first()
    except Exception:  # in the first milliseconds it is not imported, or only in part
        is_first = True
    if is_first:
        try:  # noqa: SIM105
            os.write(2, f"{LINE}\n".encode())
        except OSError:
            pass
    os._exit(EXIT_CODE)
