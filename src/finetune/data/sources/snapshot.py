"""Data in memory as one table that can be written to a file and read again with the same meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from finetune.data.bad_rows import BadRows
from finetune.data.sources.columnar import WITHOUT_NAMES
from finetune.data.sources.memory import from_arrow
from finetune.data.sources.open import open_in_memory
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Snapshot:
    """The rows of an object as they are now; `shown` is its name in messages, such as "the pandas frame"."""

    table: pa.Table
    shown: str

    @property
    def digest(self) -> str:
        """A hex digest of its columns and values: the same for every type of object that holds the same."""
        names = repr(self.table.schema.metadata or {})
        return from_arrow(self.table, names).fingerprint()

    def write(self, file: BinaryIO) -> None:
        """Write it as Parquet into an open file."""
        import pyarrow.parquet as pq

        pq.write_table(self.table, file)


def snapshot(what: Any) -> Snapshot:
    """Return the rows of a frame, an Arrow table, a data set, a list of dicts or tuples, or a dict of columns.

    Raises:
        CheckFailed: it holds no table, or rows whose values are not of the type of their column.
    """
    source = open_in_memory(what)
    head = source.head()
    bad = BadRows()
    reading = source.read(head.names, bad)
    if bad:
        raise CheckFailed(bad.problems(reading.rows_read, None))
    table = reading.table.combine_chunks()
    if not head.named:
        table = table.replace_schema_metadata({WITHOUT_NAMES: b"true"})
    return Snapshot(table, source.shown)


def number_problems(schema: pa.Schema, items: Sequence[str], shown: str) -> list[Problem]:
    """Return a problem for each of the columns of items that holds numbers or dates instead: `items` are their names.

    A file may hold texts such as 42; in memory numbers have a type of their own, and are almost always a wrong column.
    """
    import pyarrow as pa

    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_temporal)
    problems = []
    for name in items:
        kind = schema.field(name).type
        if any(test(kind) for test in tests):
            what = f"the column '{name}' of {shown} holds numbers or dates ({kind}), and texts are expected."
            advice = (
                "Choose another column with data.columns; convert numbers that are meant as texts with astype(str)."
            )
            problems.append(Problem("data.columns", what, advice))
    return problems
