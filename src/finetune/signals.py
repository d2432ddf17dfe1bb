"""The signals that stop this process: Ctrl-C at any time, SIGTERM and SIGHUP while there is a run.

An exception raised in the middle of an import, a destructor or a parser may be replaced by another one or be lost. So
the process exits at once as long as it has written nothing, and later it records that a stop was requested.

SIGHUP, sent when a terminal closes, is treated as SIGTERM; if it is ignored (nohup) it stays ignored. SIGQUIT
(Ctrl-backslash) keeps its default: it ends a process that does not react, at once and without saving.

Imports as little as possible: until `exit_on_interrupt` is called, Ctrl-C prints a traceback.
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

INTERRUPTED_MESSAGE = "Stopped by Ctrl-C."
EXIT_CODE = 130
# On a system without SIGHUP (Windows) a closed terminal ends the process.
STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
QUITS = tuple(getattr(signal, name) for name in ("SIGQUIT",) if hasattr(signal, name))
ALL = (signal.SIGINT, *STOPS)
_SECONDS_OF_A_REPEAT = 1.0
_requests: list[tuple[float, int]] = []  # the time of each request to stop, and its signal


class StopRequested(KeyboardInterrupt):
    """A signal asked this process to stop; `number` is that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(display_name(number))
        self.number = number


def exit_on_interrupt() -> None:
    """From now on Ctrl-C ends the process at once: there is nothing to clean up."""
    install([signal.SIGINT], _end)


def raise_on_interrupt() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that files can be finished or removed."""
    install([signal.SIGINT], raise_stop)


def stop_requested() -> bool:
    """Return whether a signal asked this process to stop, so that any error may be a consequence of it."""
    return bool(_requests)


def stop_signal() -> str | None:
    """Return the name of the last signal that asked this process to stop; None if none did."""
    if not _requests:
        return None
    return display_name(_requests[-1][1])


def reset() -> None:
    """Forget all requests to stop, before the next run of this process."""
    _requests.clear()


def display_name(number: int) -> str:
    """Return the name of a signal for messages."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def is_repeat(number: int) -> bool:
    """Return whether a signal repeats the last one; if not, it is recorded as a new request.

    Wrappers (`timeout`, `uv run`) forward what the terminal sent to all its processes, and a terminal that closes sends
    SIGHUP several times. Neither is a second request, which would end the process without saving.
    """
    now = time.monotonic()
    if _requests and (number not in (signal.SIGINT, signal.SIGTERM) or now - _requests[-1][0] < _SECONDS_OF_A_REPEAT):
        return True
    _requests.append((now, number))
    return False


def raise_stop(number: int, _frame: FrameType | None) -> None:
    """Raise StopRequested unless the signal is a repeat; the handler of a signal that asks to stop."""
    if not is_repeat(number):
        raise StopRequested(number)


def raise_at_once(number: int, _frame: FrameType | None) -> None:
    """Raise StopRequested; the handler of a signal that asks to stop without saving."""
    raise StopRequested(number)


def install(
    numbers: Iterable[int], handler: Handler | signal.Handlers, although_ignored: Iterable[int] = ()
) -> dict[int, Any]:
    """Install a handler for signals that are not ignored, or are among `although_ignored`.

    Returns the previous handlers for `restore`. Only the main thread may install handlers, so in another thread nothing
    happens: the program that started the thread decides.
    """
    before: dict[int, Any] = {}
    for number in numbers:
        previous = signal.getsignal(number)
        if previous is signal.SIG_IGN and number not in although_ignored:
            continue  # the process that started this one wants that (nohup)
        try:
            signal.signal(number, handler)
        except ValueError:  # not in the main thread
            return {}
        before[number] = previous
    return before


def restore(before: dict[int, Any]) -> None:
    """Install the previous handlers, which `install` returned."""
    for number, handler in before.items():
        # None: it was installed by C code, and Python cannot install it again.
        if handler is not None:
            signal.signal(number, handler)


class Installed:
    """A context in which a handler is installed, see `install`."""

    def __init__(self, numbers: Iterable[int], handler: Handler | signal.Handlers) -> None:
        self._numbers, self._handler = numbers, handler

    def __enter__(self) -> None:
        self._before = install(self._numbers, self._handler)

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
            os.write(2, f"{INTERRUPTED_MESSAGE}\n".encode())
        except OSError:
            pass
    os._exit(EXIT_CODE)
