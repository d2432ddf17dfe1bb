"""Rows that are JSON arrays, such as `["a question", "its answer"]`: columns by position."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.sources.header import has_header
from finetune.data.sources.type_inference import InvalidRow


@dataclass(frozen=True)
class ArrayColumns:
    """The columns of rows that are arrays; `named`: the first row holds the names, else they are "1", "2", ..."""

    names: list[str]
    named: bool

    def row(self, value: Any) -> dict[str, Any] | InvalidRow:
        """Return a value of the file as a row by name, or what is wrong with it."""
        if isinstance(value, InvalidRow):
            return value
        if not isinstance(value, list):
            return InvalidRow("array", "is no JSON array, as the other rows are", json.dumps(value))
        if len(value) != len(self.names):
            what = f"has {len(value)} values, the other rows have {len(self.names)}"
            return InvalidRow("array", what, json.dumps(value))
        return dict(zip(self.names, value, strict=True))


def is_array_row(value: Any) -> bool:
    """Whether a value is a row by position: an array with something in it, and no array of objects."""
    return isinstance(value, list) and bool(value) and not isinstance(value[0], dict)


def infer_array_columns(rows: Sequence[list[Any]], header: bool | str) -> ArrayColumns:
    """Return the columns of a file by its first rows; `header` is the setting: true, false or auto."""
    width = Counter(map(len, rows)).most_common(1)[0][0]
    first = rows[0]
    named = header is True
    if header == "auto" and len(first) == width and all(isinstance(cell, str) for cell in first):
        named = has_header([_as_texts(row) for row in rows if len(row) == width]) is True
    return ArrayColumns([str(cell) for cell in first] if named else [str(i + 1) for i in range(width)], named)


def _as_texts(row: list[Any]) -> list[str]:
    return ["" if cell is None or isinstance(cell, list | dict) else str(cell) for cell in row]
