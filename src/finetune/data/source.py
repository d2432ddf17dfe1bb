"""What every source of data does: say what its columns are, and hand them over as Arrow columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.schema.number_formats import Notation

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints


@dataclass(frozen=True)
class ReadOptions:
    """How a source is to be read; the keys are explained in `conf/data/files.yaml`."""

    format: str = "auto"
    header: bool | str = "auto"
    delimiter: str = "auto"
    decimal: str = "auto"
    encoding: str = "utf-8"
    max_cell_characters: int = 1_000_000


@dataclass(frozen=True)
class Head:
    """The first look at a source: its columns, a few rows as Python values, and what was recognised.

    `notations` is how the numbers of a text column are written, where that is not with a decimal point.

    `named` is False where the file has no header: then `names` are "1", "2", and so on. `notes` are sentences to be
    told, such as the dialect of a CSV file.
    """

    names: list[str]
    sample: list[tuple[Any, ...]]
    named: bool = True
    notes: list[str] = field(default_factory=list)
    notations: Mapping[str, Notation] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """The columns that were asked for, of all rows that could be read.

    `locate` returns the file and line of the rows at these indices; it may read the file again, and is called only for
    bad rows. `rows_read` also counts the rows that could not be read.
    """

    table: pa.Table
    locate: Callable[[Ints], list[RowLocation]]
    rows_read: int


class Source(Protocol):
    """One source of rows. `shown` is what it is called in messages, `base` the folder that paths in it start from."""

    shown: str
    base: Path

    def head(self) -> Head:
        """Look at the first rows only; fast however large the source is.

        Raises:
            CheckFailed: it cannot be had or read, with what stands in the way.
        """

    def fingerprint(self) -> str:
        """Return a hex digest of the content and of what decides how it is read."""

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all rows; rows that cannot be read are added to `bad` and left out.

        Text comes as `large_string`, lists as `large_list`, everything else as it is stored.

        Raises:
            CheckFailed: it cannot be read to its end, or changed while it was read.
        """
