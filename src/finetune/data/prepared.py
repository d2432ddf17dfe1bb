"""Everything that was read, numbered and related, before any of it is limited or held out: what the cache keeps.

N items, B relations, E edges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.items import Items, Part
from finetune.data.judgments import Judgments
from finetune.data.known import KnownPositives
from finetune.data.layouts import Layout
from finetune.data.relations import Relations

FACTS = "facts.json"


@dataclass(frozen=True)
class Prepared:
    """Items, all distinct relations, who is right for whom, and judgments to evaluate by, if data for that was named.

    `component (N,)` is the same number for items that hang together by a chain of relations. `layouts` and `sources`
    are the layout and the name of each source, `labels` the names of the classes.
    """

    items: Items
    relations: Relations
    known: KnownPositives
    component: Ints
    judgments: Judgments | None
    sources: list[str]
    layouts: list[Layout]
    labels: list[str] = field(default_factory=list)
    rows_read: int = 0
    rows_skipped: int = 0
    duplicates: int = 0
    notes: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write everything as Arrow files, to be memory-mapped."""
        for part in self.items.parts:
            _write(folder / f"items_{part.modality}.arrow", {"value": part.values})
        _write(folder / "relations.arrow", _flat(self.relations))
        groups = {} if self.known.group is None else {"group": self.known.group}
        _write(folder / "of_items.arrow", {"component": self.component, **groups})
        _write(folder / "known_offsets.arrow", {"value": self.known.offsets})
        _write(folder / "known_neighbours.arrow", {"value": self.known.neighbours})
        judged: dict[str, Any] = {}
        if self.judgments is not None:
            judged = {each.name: getattr(self.judgments, each.name) for each in fields(self.judgments)}
            name = judged.pop("name")
            for column, values in judged.items():
                _write(folder / f"judgments_{column}.arrow", {"value": values})
            judged = {"name": name}
        facts = {
            "judgments": judged,
            "modalities": [part.modality for part in self.items.parts],
            **{
                name: getattr(self, name)
                for name in ("sources", "layouts", "labels", "rows_read", "rows_skipped", "duplicates", "notes")
            },
        }
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        """Return what `save` wrote; the arrays are memory-mapped and cannot be changed."""
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        parts = [
            Part(modality, _one(_read(folder / f"items_{modality}.arrow")["value"]))
            for modality in facts.pop("modalities")
        ]
        of_items = _numbers(folder / "of_items.arrow")
        known = KnownPositives(
            _numbers(folder / "known_offsets.arrow")["value"],
            _numbers(folder / "known_neighbours.arrow")["value"],
            of_items.get("group"),
        )
        judged, judgments = facts.pop("judgments"), None
        if judged:
            names = [each.name for each in fields(Judgments) if each.name != "name"]
            judgments = Judgments(
                **judged, **{name: _numbers(folder / f"judgments_{name}.arrow")["value"] for name in names}
            )
        relations = _unflat(_numbers(folder / "relations.arrow"))
        return cls(Items(tuple(parts)), relations, known, of_items["component"], judgments, **facts)


def _flat(relations: Relations) -> dict[str, Any]:
    """Return the columns of relations by name; those of a table are numbered."""
    columns: dict[str, Any] = {}
    for each in fields(relations):
        values = getattr(relations, each.name)
        if values is not None and values.ndim == 2:
            columns |= {f"{each.name}_{i}": values[:, i] for i in range(values.shape[1])}
        elif values is not None:
            columns[each.name] = values
    return columns


def _unflat(columns: dict[str, Any]) -> Relations:
    one = {each.name: columns[each.name] for each in fields(Relations) if each.name in columns}
    for name in ("negatives", "score"):
        numbered = [columns[f"{name}_{i}"] for i in range(len(columns)) if f"{name}_{i}" in columns]
        if numbered:
            one[name] = np.column_stack(numbered)
    return Relations(**one)


def _write(path: Path, columns: dict[str, Any]) -> None:
    table = pa.table(
        {name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()}
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read(path: Path) -> pa.Table:
    # Not as a context manager: the table goes on reading from the map.
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _numbers(path: Path) -> dict[str, Any]:
    table = _read(path)
    return {name: _whole(table[name]) for name in table.column_names}


def _whole(column: pa.ChunkedArray) -> Any:
    return _one(column).to_numpy(zero_copy_only=False)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
