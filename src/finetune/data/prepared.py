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
from finetune.data.cache.arrow_files import read_array, read_numbers, write_array
from finetune.data.holdout.judgments import Judgments
from finetune.data.items import Items, Part
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.schema.layouts import Layout

FACTS = "facts.json"
_PLAIN = ("sources", "layouts", "labels", "rows_read", "rows_skipped", "skipped", "duplicates", "notes")


@dataclass(frozen=True)
class Prepared:
    """Items, all distinct relations, known positives, and the judgments of the validation data if there are any.

    `component (N,)` is the same number for items that are connected by a chain of relations. `layouts` and `sources`
    are the layout and the name of each source, `labels` the names of the classes. `skipped` counts the rows that were
    left out by kind, in words, if some are of a tolerated kind (`bad_rows.TOLERATED`).
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
    skipped: str = ""
    duplicates: int = 0
    notes: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write everything as Arrow files, to be memory-mapped."""
        for part in self.items.parts:
            _write(folder / f"items_{part.modality}.arrow", part.values)
        columns = _split_columns(self.relations)
        for name, values in columns.items():
            _write(folder / f"relations_{name}.arrow", values)
        _write(folder / "component.arrow", self.component)
        if self.known.group is not None:
            _write(folder / "known_group.arrow", self.known.group)
        _write(folder / "known_offsets.arrow", self.known.offsets)
        _write(folder / "known_neighbours.arrow", self.known.neighbors)
        judged: dict[str, Any] = {}
        if self.judgments is not None:
            for each in fields(self.judgments):
                if each.name != "name":
                    _write(folder / f"judgments_{each.name}.arrow", getattr(self.judgments, each.name))
            judged = {"name": self.judgments.name}
        facts = {
            "judgments": judged,
            "relations": list(columns),
            "modalities": [part.modality for part in self.items.parts],
            **{name: getattr(self, name) for name in _PLAIN},
        }
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        """Return what `save` wrote; the arrays are memory-mapped and read-only."""
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        parts = [Part(modality, read_array(folder / f"items_{modality}.arrow")) for modality in facts.pop("modalities")]
        offsets = read_numbers(folder / "known_offsets.arrow")
        neighbors, group = read_numbers(folder / "known_neighbours.arrow"), None
        if (folder / "known_group.arrow").is_file():
            group = read_numbers(folder / "known_group.arrow")
        known = KnownPositives(offsets, neighbors, group)
        judged, judgments = facts.pop("judgments"), None
        if judged:
            names = [each.name for each in fields(Judgments) if each.name != "name"]
            arrays: dict[str, Any] = {name: read_numbers(folder / f"judgments_{name}.arrow") for name in names}
            judgments = Judgments(**judged, **arrays)
        names = facts.pop("relations")
        relations = _join_columns({name: read_numbers(folder / f"relations_{name}.arrow") for name in names})
        component = read_numbers(folder / "component.arrow")
        return cls(Items(tuple(parts)), relations, known, component, judgments, **facts)


def _split_columns(relations: Relations) -> dict[str, Any]:
    """Return the columns of relations by name; those of a two-dimensional one are numbered."""
    columns: dict[str, Any] = {}
    for each in fields(relations):
        values = getattr(relations, each.name)
        if values is not None and values.ndim == 2:
            columns |= {f"{each.name}_{i}": values[:, i] for i in range(values.shape[1])}
        elif values is not None:
            columns[each.name] = values
    return columns


def _join_columns(columns: dict[str, Any]) -> Relations:
    one = {each.name: columns[each.name] for each in fields(Relations) if each.name in columns}
    for name in ("negatives", "score"):
        numbered = [columns[f"{name}_{i}"] for i in range(len(columns)) if f"{name}_{i}" in columns]
        if numbered:
            one[name] = np.column_stack(numbered)
    return Relations(**one)


def _write(path: Path, values: Any) -> None:
    if not isinstance(values, pa.Array):
        values = pa.array(values)
    write_array(path, values)
