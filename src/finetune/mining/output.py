"""Mined negatives as a Parquet file that `data=parquet` and other trainers read.

Shapes: B rows, n negatives of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Relations
from finetune.mining.bare_texts import bare_texts
from finetune.mining.mined import Mined
from finetune.runs.atomic import open_atomically

Format = Literal["ntuples", "triplets", "scores"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ROWS_AT_ONCE = 1 << 16


def write_mined(
    path: Path, relations: Relations, items: Items, mined: Mined, form: Format, prompts: Sequence[str] = ()
) -> int:
    """Write the rows with their negatives, and return how many were written.

    `ntuples`: a row for each pair, with columns anchor, positive, negative_1, negative_2, ...; null where there are
    fewer negatives. `triplets`: a row for each negative; a pair without any has one with null. `scores`: a row for each
    pair with an anchor, and lists of documents, the positive first, and of their scores. Relabelled pairs come last.
    Texts are written without the `prompts` that they begin with. The same arguments give the same bytes.

    Raises:
        RunError: the file cannot be written.
    """
    whole = mined.add_to(relations, scored=True)
    rows = np.flatnonzero((whole.anchor != ABSENT) & (whole.positive != ABSENT))
    table_of = _TABLES[form]
    count = 0
    writer: pq.ParquetWriter | None = None
    with open_atomically(path, elsewhere="Choose another place: out=/path/on/another/disk.parquet") as file:
        for start in range(0, max(1, len(rows)), _ROWS_AT_ONCE):
            part = whole.take(rows[start : start + _ROWS_AT_ONCE])
            table = table_of(part, _Texts(items, prompts))
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            count += table.num_rows
        assert writer is not None
        writer.close()
    return count


class _Texts:
    """Texts of items without their prompts, null for a missing item."""

    def __init__(self, items: Items, prompts: Sequence[str]) -> None:
        self._items, self._prompts = items, prompts

    def __call__(self, numbers: Ints) -> pa.Array:
        return bare_texts(self._items, numbers, self._prompts)


def _ntuples(relations: Relations, texts: _Texts) -> pa.Table:
    columns: dict[str, pa.Array] = {"anchor": texts(relations.anchor), "positive": texts(relations.positive)}
    columns |= {f"negative_{i}": texts(column) for i, column in enumerate(relations.negatives.T, start=1)}
    return pa.table(columns | _weights(relations))


def _triplets(relations: Relations, texts: _Texts) -> pa.Table:
    has_negative = relations.negatives != ABSENT
    has_negative[~has_negative.any(axis=1), 0] = True  # the pair is kept, with null
    row, place = np.nonzero(has_negative)
    taken = relations.take(row)
    columns = {"anchor": texts(taken.anchor), "positive": texts(taken.positive)}
    columns["negative"] = texts(relations.negatives[row, place])
    return pa.table(columns | _weights(taken))


def _scores(relations: Relations, texts: _Texts) -> pa.Table:
    documents = np.column_stack([relations.positive, relations.negatives])
    exists = documents != ABSENT
    assert relations.score is not None
    offsets = pa.array(np.append(0, np.cumsum(exists.sum(axis=1))), pa.int32())
    columns: dict[str, Any] = {"anchor": texts(relations.anchor)}
    columns["documents"] = pa.ListArray.from_arrays(offsets, texts(documents[exists]))
    columns["scores"] = pa.ListArray.from_arrays(offsets, pa.array(relations.score[exists]))
    return pa.table(columns | _weights(relations))


def _weights(relations: Relations) -> dict[str, pa.Array]:
    return {} if relations.weight is None else {"weight": pa.array(relations.weight)}


_TABLES = {"ntuples": _ntuples, "triplets": _triplets, "scores": _scores}
