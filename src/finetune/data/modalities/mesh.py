"""Meshes: read once, stored as point clouds.

N meshes, P points.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from finetune.data.items import STORED
from finetune.data.modalities.cells import first_non_null, text_or_bytes_columns
from finetune.data.modalities.floats import Floats, unpack
from finetune.data.modalities.map_unique import map_unique, threads_for
from finetune.data.modalities.mesh_sampling import sample_points
from finetune.data.modalities.options import Facts, Options, Progress, Report, no_progress
from finetune.data.modalities.references import Cell, ContentReader
from finetune.errors import FinetuneError

MAGIC = (b"ply\n", b"ply\r\n", b"OFF", b"COFF")


def is_mesh(content: bytes) -> bool:
    """Whether the bytes begin like a PLY or OFF file; OBJ cannot be distinguished from other text."""
    return content.startswith(MAGIC)


def prepare(
    column: pa.ChunkedArray,
    base: Path,
    report: Report,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> pa.ChunkedArray:
    """Return a point cloud of `options.points` points for each mesh, float32 bytes, `large_binary`; null for a bad one.

    `column` holds paths (from `base`), URLs, data: URIs, bytes, or structs of bytes and path, of OBJ, OFF or PLY.
    Invalid meshes are reported. Files that a mesh refers to (materials, textures) are not opened.

    Raises:
        CheckFailed: the column has another type.
        FinetuneError: trimesh is not installed.
    """
    _check_trimesh()
    options = options or Options()
    contents = ContentReader("mesh", base, options)

    def sample(cell: Cell) -> bytes:
        return sample_points(contents.get(cell), options.points, unit_sphere=options.unit_sphere)

    stored = []
    for values in text_or_bytes_columns(column, "meshes: paths, URLs, data: URIs or bytes of OBJ, OFF or PLY"):
        threads = threads_for(values, options)
        stored.append(map_unique(values, sample, bytes, STORED["mesh"], threads, report, progress))
    return first_non_null(stored)


def load(values: pa.Array, options: Options | None = None) -> Floats:  # noqa: ARG001 all modalities load alike
    """Return the point clouds that `prepare` stored, (N, P, 3) float32, without a copy.

    Raises:
        RunError: they have several numbers of points.
    """
    rows = unpack(values, "meshes")
    if not len(rows):
        return rows.reshape(0, 0, 3)
    return rows.reshape(len(rows), -1, 3)


def facts(values: pa.Array, options: Options | None = None) -> Facts:
    """Return a summary of the meshes for a report: the points of each."""
    if not len(values):
        return {}
    return {"points_per_mesh": load(values, options).shape[1]}


def _check_trimesh() -> None:
    try:
        import trimesh  # noqa: F401
    except ImportError as error:
        raise FinetuneError("Meshes need the package trimesh.", "pip install 'finetune[meshes]'") from error
