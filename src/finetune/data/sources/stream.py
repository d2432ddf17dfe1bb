"""Reading a source of any size in parts, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from finetune.data.bad_rows import BadRows
from finetune.data.source import Reading


class _Readable(Protocol):
    def read(self, names: Sequence[str], bad: BadRows) -> Reading: ...


@runtime_checkable
class Streamable(Protocol):
    """A source, or the reader of one file, that can be read in parts."""

    def stream(self, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
        """Yield the rows that `read` returns, in the same order, in parts of bounded size.

        Raises:
            CheckFailed: as `read`; rows may have been yielded before.
        """
        ...


def stream(source: _Readable, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
    """Yield these columns of all rows in parts; a source that cannot be read in parts is read as a whole."""
    if isinstance(source, Streamable):
        yield from source.stream(names, bad)
    else:
        yield source.read(names, bad)
