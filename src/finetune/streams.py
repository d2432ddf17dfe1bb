"""Standard output and standard error that never raise: what cannot be written is dropped, and the program continues.

A closed pipe (`| head`), a full disk behind `> log`, a closed terminal, a closed descriptor (`>&-`) and a character
that the encoding lacks must not end a training of many hours. All output of this process, including that of
libraries, goes through these two streams.

Imports very little, because it is called first in every program.
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


def install() -> None:
    """Replace the standard streams of this program by streams that never raise, and open closed descriptors."""
    _is_program.append(True)
    _replace()


def is_program() -> bool:
    """Return whether this process is finetune's own program, and not another program that calls finetune."""
    return bool(_is_program)


@contextmanager
def replaced() -> Iterator[None]:
    """Use such streams inside the `with`, in another program."""
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
    # Otherwise the next opened file gets the descriptor, and C libraries print into it.
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
    return open(os.devnull, encoding="utf-8")  # noqa: PTH123 - stays open until the process ends


def _safe(stream: Any, number: int) -> Any:
    """Return a stream with the same target that never raises; a stream of a notebook, a test or a program is kept."""
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
    """Encode characters that an encoding lacks: surrogate escapes of a file name as their bytes, others as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    encoded = bytearray()
    for character in error.object[error.start : error.end]:
        is_escaped_byte = "\udc80" <= character <= "\udcff"
        encoded.append(ord(character) - 0xDC00 if is_escaped_byte else ord("?"))
    return bytes(encoded), error.end


codecs.register_error(_ERRORS, _encoded)


class _Text(io.TextIOWrapper):
    """A text stream of its own class, so that it is not replaced twice."""

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
