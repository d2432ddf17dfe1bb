from __future__ import annotations

from typing import Any

import pytest

from finetune.data.bad_rows import BadRows
from finetune.data.sources import Head, Reading, ReadOptions, open_source
from finetune.errors import CheckFailed


def options(**changes: Any) -> ReadOptions:
    return ReadOptions(**changes)


def head_of(what: Any, **changes: Any) -> Head:
    return open_source(what if not hasattr(what, "__fspath__") else str(what), options(**changes)).head()


def read(what: Any, *names: str, **changes: Any) -> tuple[Reading, BadRows]:
    """Read these columns, or all of them."""
    source = open_source(what if not hasattr(what, "__fspath__") else str(what), options(**changes))
    bad = BadRows()
    return source.read(list(names) or source.head().names, bad), bad


def rows_of(what: Any, *names: str, **changes: Any) -> list[tuple[Any, ...]]:
    """Return all rows of a source without bad ones."""
    reading, bad = read(what, *names, **changes)
    assert [str(row) for row in bad.first] == []
    assert reading.rows_read == reading.table.num_rows
    return tuples(reading)


def tuples(reading: Reading) -> list[tuple[Any, ...]]:
    columns = [column.to_pylist() for column in reading.table.columns]
    return list(zip(*columns, strict=True))


def error_message(what: Any, **changes: Any) -> str:
    """Return the error message for a source that cannot be read or has bad rows."""
    try:
        reading, bad = read(what, **changes)
    except CheckFailed as failed:
        return "\n".join(str(problem) for problem in failed.problems)
    if not bad:
        pytest.fail(f"nothing was refused: {tuples(reading)}")
    return "\n".join(str(problem) for problem in bad.problems(reading.rows_read, None))
