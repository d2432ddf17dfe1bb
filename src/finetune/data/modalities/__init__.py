"""Modalities: what the items of a column are, and how images, meshes and vectors are read, stored and loaded.

Each of `image`, `mesh` and `vector` is a module with the same three functions: `prepare` brings a column to its stored
form (`items.STORED`), `load` returns what is stored as what a model takes, `facts` what a report says of it.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from finetune.data.items import Modality, Part
from finetune.data.modalities import detect, image, mesh, vector
from finetune.data.modalities.options import Facts, Options, Progress, Report, no_progress

__all__ = ["Facts", "Options", "Progress", "Report", "facts", "load", "prepare_column", "recognize"]

_MODULES: dict[Modality, ModuleType] = {"image": image, "mesh": mesh, "vector": vector}
LOOKED_AT = 100  # values that are not null
LOOKED_THROUGH = 10_000  # rows


def recognize(name: str, values: pa.ChunkedArray, base: Path) -> Modality:
    """Return what the items of a column are, by its type, its first values and its name; paths start from `base`."""
    first = values.slice(0, LOOKED_THROUGH).drop_null().slice(0, LOOKED_AT)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    return detect.detect_modality(name, kind, first.to_pylist(), base)


def prepare_column(
    modality: Modality,
    values: pa.ChunkedArray,
    base: Path,
    report: Report,
    progress: Progress = no_progress,
    options: Options | None = None,
) -> pa.ChunkedArray:
    """Return a column of images, meshes or vectors as they are stored (`items.STORED`), null where there is none.

    `report(row, kind, what)` is called for each bad row, in order; `progress(done, total)` now and then.

    Raises:
        CheckFailed: the column holds what no such items can be.
        FinetuneError: a package is missing.
    """
    prepared: pa.ChunkedArray = _MODULES[modality].prepare(values, base, report, options, progress)
    return prepared


def load(part: Part, rows: pa.Array | None = None, options: Options | None = None) -> Any:
    """Return the items of a part, or those at `rows` of it, as a model takes them.

    Texts as a list of them, images as a list of Pillow's, RGB and upright, meshes as float32 (N, P, 3), vectors as
    float32 (N, D).

    Raises:
        RunError: an image is not there any more; meshes or vectors are of several sizes.
        FinetuneError: a package is missing.
    """
    values = part.values if rows is None else part.values.take(rows)
    return values.to_pylist() if part.modality == "text" else _MODULES[part.modality].load(values, options)


def facts(part: Part, options: Options | None = None) -> Facts:
    """Return what a report says of the items of a part; nothing of texts."""
    found: Facts = {} if part.modality == "text" else _MODULES[part.modality].facts(part.values, options)
    return found
