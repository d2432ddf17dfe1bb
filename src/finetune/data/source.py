"""The interface of every data source: its columns, a fingerprint, and reading columns as Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.schema.number_formats import Notation

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a source; the keys are explained in `conf/data/files.yaml`."""

    format: str = "auto"
    header: bool | str = "auto"
    delimiter: str = "auto"
    decimal: str = "auto"
    encoding: str = "utf-8"
    max_cell_characters: int = 1_000_000


@dataclass(frozen=True)
class Head:
    """The start of a source: its columns, a few rows as Python values, and what was detected.

    `named` is False where the file has no header: then `names` are "1", "2", and so on. `notes` are sentences to print,
    such as the dialect of a CSV file. `notations` is how numbers are written in text columns without a decimal point.
    """

    names: list[str]
    sample: list[tuple[Any, ...]]
    named: bool = True
    notes: list[str] = field(default_factory=list)
    notations: Mapping[str, Notation] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """The requested columns, of all rows that could be read.

    `locate` returns the file and line of the rows at these indices; it may read the file again, and is called only for
    bad rows. `rows_read` also counts the rows that could not be read.
    """

    table: pa.Table
    locate: Callable[[Ints], list[RowLocation]]
    rows_read: int


class Source(Protocol):
    """One source of rows. `shown` is its name in messages, `base` the folder that paths in it are relative to."""

    shown: str
    base: Path

    def head(self) -> Head:
        """Read the first rows only, however large the source is.

        Raises:
            CheckFailed: the source is missing or cannot be read.
        """

    def fingerprint(self) -> str:
        """Return a hex digest of the content and of the options that decide how it is read."""

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all rows; rows that cannot be read are added to `bad` and left out.

        Texts are `large_string`, lists are `large_list`, other types are as stored.

        Raises:
            CheckFailed: the source cannot be read to its end, or changed meanwhile.
        """


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
