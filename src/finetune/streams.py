"""Standard output and standard error that never raise: what cannot be written is dropped, and the program continues.

A reader that has gone (`| head`), a full disk behind `> log`, a closed terminal, a descriptor that was closed
(`>&-`) and a character that the encoding lacks are no reason to end a training of many hours. Every print, table,
progress bar and logging handler of this process writes through these two streams, and so do the libraries.

Imports next to nothing: the first lines of a program call it.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_STANDARD = ("stdin", "stdout", "stderr")  # in the order of their descriptors
_ERRORS = "finetune.streams"
_is_program: list[bool] = []


def settle() -> None:
    """Replace the standard streams of this program by ones that never raise, and open those that are closed."""
    _is_program.append(True)
    _replace()


def is_program() -> bool:
    """Return whether this process is our own program, and not another one that calls a function of ours."""
    return bool(_is_program)


@contextmanager
def replaced() -> Iterator[None]:
    """Have such streams inside the `with`, in a program that is not ours."""
    before = sys.stdin, sys.stdout, sys.stderr
    _replace()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Text):
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _replace() -> None:
    _open_closed()
    sys.stdin = sys.stdin or _reading_nothing()
    sys.stdout, sys.stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)


def _open_closed() -> None:
    # Otherwise the next file that is opened gets the number, and C libraries print into it.
    for number, _ in enumerate(_STANDARD):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def _reading_nothing() -> Any:
    return open(os.devnull, encoding="utf-8")  # noqa: PTH123 - as long as the process lives


def _safe(stream: Any, number: int) -> Any:
    """Return a stream that writes where `stream` does; one of a notebook, a test or another program is kept."""
    if stream is None:  # its descriptor was closed when Python started
        return _Text(_Bytes(number), "utf-8", _ERRORS)
    if type(stream) is not io.TextIOWrapper:
        return stream
    try:
        number = stream.fileno()
        stream.flush()
    except (OSError, ValueError):
        pass
    errors = _ERRORS if stream.errors in ("strict", "surrogateescape") else stream.errors
    return _Text(
        _Bytes(number),
        stream.encoding,
        errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _encoded(error: UnicodeError) -> tuple[bytes, int]:
    """Return bytes for what an encoding lacks: those of a file name as they are, which Python escapes, else `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return b"".join(bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else b"?" for one in text), error.end


codecs.register_error(_ERRORS, _encoded)


class _Text(io.TextIOWrapper):
    """A text stream of a class of its own, so that it is not replaced twice."""

    mode = "w"


class _Bytes(io.RawIOBase):
    """Writes bytes to a file descriptor, which stays open; unbuffered, since the text stream has a buffer."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.name = f"<{_STANDARD[number]}>" if number < len(_STANDARD) else number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            try:
                left = left[os.write(self._number, left) :]
            except BlockingIOError:  # a pipe that another program made non-blocking is full
                select.select([], [self._number], [], 1.0)
            except OSError:
                break
        return size
