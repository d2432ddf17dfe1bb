"""Small tables as a source would hand them over, for tests of what comes after reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.bad_rows import BadRows, RowLocation
from finetune.data.prepare import TypedSource, prepare
from finetune.data.prepared import Prepared
from finetune.data.prompts import Prompts
from finetune.data.schema.column_spec import ColumnSetting
from finetune.data.schema.columns import to_texts, type_columns
from finetune.data.schema.layouts import find_roles
from finetune.data.source import Reading


def typed_source(columns: dict[str, list[Any]], told: ColumnSetting = None, **settings: Any) -> TypedSource:
    """Return these columns as one source."""
    table = pa.table({name: _column(values) for name, values in columns.items()})
    rows = list(zip(*columns.values(), strict=True))
    roles = find_roles(list(columns), rows[:5], told)
    reading = Reading(
        table.select(roles.names), lambda rows: [RowLocation("data.csv", int(row) + 2) for row in rows], table.num_rows
    )
    typed = type_columns(reading, roles, lambda name, values, _: ("text", to_texts(name, values)))
    defaults: dict[str, Any] = {"name": "data.csv", "prompts": Prompts(), "transitive": False, "min_score": None}
    return TypedSource(columns=typed, **{**defaults, **settings})


def _column(values: list[Any]) -> pa.ChunkedArray:
    array = pa.array(values)
    return pa.chunked_array([array.cast(pa.large_string()) if array.type == pa.string() else array])


def prepared(columns: dict[str, list[Any]], told: ColumnSetting = None, **settings: Any) -> tuple[Prepared, BadRows]:
    """Return what one source of these columns becomes, and its bad rows."""
    bad = BadRows()
    return prepare([typed_source(columns, told, **settings)], None, bad), bad


def texts(found: Prepared) -> list[tuple[str | None, ...]]:
    """Return the relations as texts: anchor, positive, negatives."""
    names = [*found.items.take(np.arange(len(found.items))), None]
    return [tuple(names[item] for item in row) for row in found.relations.columns()]
