"""Modalities: detecting what the items of a column are, and preparing and loading images, meshes and vectors.

The modules `image`, `mesh` and `vector` have the same three functions: `prepare` converts a column to its stored form
(`items.STORED`), `load` returns stored items as model input, `facts` summarizes them for a report.
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
SAMPLE_VALUES = 100  # that are not null
SAMPLE_ROWS = 10_000  # in which they are searched


def recognize(name: str, values: pa.ChunkedArray, base: Path) -> Modality:
    """Return the modality of a column by its type, first values and name; its paths are relative to `base`."""
    first = values.slice(0, SAMPLE_ROWS).drop_null().slice(0, SAMPLE_VALUES)
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return detect.detect_modality(name, kind, first.to_pylist(), base)


def prepare_column(
    modality: Modality,
    values: pa.ChunkedArray,
    base: Path,
    report: Report,
    progress: Progress = no_progress,
    options: Options | None = None,
) -> pa.ChunkedArray:
    """Return a column of images, meshes or vectors in their stored form (`items.STORED`), null where one is missing.

    `report(row, kind, what)` is called for each bad row, in order; `progress(done, total)` from time to time.

    Raises:
        CheckFailed: the column has a type that cannot hold such items.
        FinetuneError: a package is not installed.
    """
    prepared: pa.ChunkedArray = _MODULES[modality].prepare(values, base, report, options, progress)
    return prepared


def load(part: Part, rows: pa.Array | None = None, options: Options | None = None) -> Any:
    """Return the items of a part, or of some of its rows, as model input.

    Texts are a list of strings, images a list of Pillow images in RGB and upright, meshes float32 (N, P, 3), vectors
    float32 (N, D).

    Raises:
        RunError: an image is missing now; meshes or vectors have several sizes.
        FinetuneError: a package is not installed.
    """
    values = part.values if rows is None else part.values.take(rows)
    if part.modality == "text":
        return values.to_pylist()
    return _MODULES[part.modality].load(values, options)


def facts(part: Part, options: Options | None = None) -> Facts:
    """Return a summary of the items of a part for a report; empty for texts."""
    if part.modality == "text":
        return {}
    found: Facts = _MODULES[part.modality].facts(part.values, options)
    return found
