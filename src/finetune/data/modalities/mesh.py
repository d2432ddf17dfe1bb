"""Meshes: read once, stored as clouds of points.

N meshes, P points.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from finetune.data.items import STORED
from finetune.data.modalities.cells import first_non_null, text_or_bytes_columns
from finetune.data.modalities.floats import Floats, unpack
from finetune.data.modalities.image import threads_for
from finetune.data.modalities.map_unique import map_unique
from finetune.data.modalities.mesh_sampling import sample_points
from finetune.data.modalities.options import Facts, Options, Progress, Report, no_progress
from finetune.data.modalities.references import Cell, ContentReader
from finetune.errors import FinetuneError

MAGIC = (b"ply\n", b"ply\r\n", b"OFF", b"COFF")


def is_mesh(content: bytes) -> bool:
    """Whether the bytes begin like a mesh; OBJ cannot be told from other text."""
    return content.startswith(MAGIC)


def prepare(
    column: pa.ChunkedArray,
    base: Path,
    report: Report,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> pa.ChunkedArray:
    """Return the cloud of `options.points` points of each mesh, float32 bytes, `large_binary`; null for a bad one.

    `column` holds paths (from `base`), URLs, data: URIs, bytes, or structs of bytes and path, of OBJ, OFF or PLY.
    Meshes that are none are reported. No file that a mesh names (materials, textures) is opened.

    Raises:
        CheckFailed: the column holds something else.
        FinetuneError: trimesh is missing.
    """
    _need_trimesh()
    options = options or Options()
    contents = ContentReader("mesh", base, options)

    def sample(cell: Cell) -> bytes:
        return sample_points(contents.get(cell), options.points, unit_sphere=options.unit_sphere)

    stored = [
        map_unique(one, sample, bytes, STORED["mesh"], threads_for(one, options), report, progress)
        for one in text_or_bytes_columns(column, "meshes: paths, URLs, data: URIs or bytes of OBJ, OFF or PLY")
    ]
    return first_non_null(stored)


def load(values: pa.Array, options: Options | None = None) -> Floats:  # noqa: ARG001 all modalities load alike
    """Return the clouds that `prepare` stored, (N, P, 3) float32, without a copy.

    Raises:
        RunError: they are of several numbers of points.
    """
    rows = unpack(values, "meshes")
    return rows.reshape(len(rows), -1, 3) if len(rows) else rows.reshape(0, 0, 3)


def facts(values: pa.Array, options: Options | None = None) -> Facts:
    """Return what a report says of the meshes: the points of each."""
    return {"points_per_mesh": load(values, options).shape[1]} if len(values) else {}


def _need_trimesh() -> None:
    try:
        import trimesh  # noqa: F401
    except ImportError as error:
        raise FinetuneError("Meshes need the package trimesh.", "pip install 'finetune[meshes]'") from error
