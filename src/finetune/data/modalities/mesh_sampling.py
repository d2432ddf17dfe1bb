"""Sampling a point cloud from the bytes of a mesh file.

V vertices, F faces (triangles), P points.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.modalities.options import UnusableValue

Doubles = npt.NDArray[np.float64]
COMMENT = b"#"


def mesh_format(content: bytes) -> str:
    """Return `ply`, `off` or `obj`: the first two begin with their name, the third has no signature."""
    start = content[:4096].lstrip()
    if start[:3].lower() == b"ply":
        return "ply"
    lines = (line.strip() for line in start.splitlines())
    first = next((line for line in lines if line and not line.startswith(COMMENT)), b"")
    if first.upper().startswith((b"OFF", b"COFF", b"NOFF", b"STOFF")):
        return "off"
    return "obj"


def sample_points(content: bytes, points: int, *, unit_sphere: bool) -> bytes:
    """Return `points` points as float32 bytes: x y z of each, one after the other.

    They are sampled uniformly from the surface, or from the points of a file without faces, with a seed derived from
    `content`, so that the same file gives the same cloud. With `unit_sphere` their mean is moved to the origin and the
    farthest point is at distance 1.

    Raises:
        UnusableValue: it is not a mesh, is incomplete, or all points are the same.
    """
    vertices_V3, faces_F3 = _read(content)
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:16], "little"))
    with np.errstate(all="ignore"):  # infinite coordinates are checked below
        if len(faces_F3):
            points_P3 = _on_surface(vertices_V3, faces_F3, points, random)
        else:
            points_P3 = _of_points(vertices_V3, points, random)
        if unit_sphere:
            points_P3 = points_P3 - points_P3.mean(axis=0)
            points_P3 /= np.sqrt((points_P3**2).sum(axis=1).max()) or 1.0
        narrow_P3 = points_P3.astype("<f4") + np.float32(0)  # makes 0 of -0
    if not np.isfinite(narrow_P3).all():
        raise UnusableValue("mesh", "the mesh has coordinates that are not finite numbers")
    if (narrow_P3 == narrow_P3[0]).all():
        raise UnusableValue("mesh", "all its points are the same")
    return narrow_P3.tobytes()


def _read(content: bytes) -> tuple[Doubles, npt.NDArray[np.int64]]:
    if not content.strip():
        raise UnusableValue("mesh", "the file is empty")
    kind = mesh_format(content)
    try:
        missing = _missing_lines(content, kind)
        # Text is decoded here, as trimesh needs another package for encodings other than UTF-8.
        data = content if kind == "ply" else content.decode("utf-8", "replace").encode()
        parts = [] if missing else _geometry(data, kind)
        vertices = [np.asarray(part.vertices, np.float64).reshape(-1, 3) for part in parts]
        faces = [np.asarray(getattr(part, "faces", ()), np.int64).reshape(-1, 3) for part in parts]
        starts = np.cumsum([0, *map(len, vertices)])
        vertices_V3 = np.concatenate([*vertices, np.empty((0, 3))])
        faces_F3 = np.concatenate([*(one + s for one, s in zip(faces, starts, strict=False)), np.empty((0, 3), int)])
    except Exception as error:  # parsers raise errors of many types for invalid data
        raise UnusableValue("mesh", f"it is not a valid {kind.upper()} file") from error
    if missing:
        raise UnusableValue("mesh", f"the mesh is incomplete: {missing:,} lines that its header declares are missing")
    return _check_mesh(vertices_V3, faces_F3, kind)


def _check_mesh(
    vertices_V3: Doubles, faces_F3: npt.NDArray[np.int64], kind: str
) -> tuple[Doubles, npt.NDArray[np.int64]]:
    if not len(vertices_V3):
        raise UnusableValue("mesh", f"there are no points in it, read as {kind.upper()}")
    if not np.isfinite(vertices_V3).all():
        raise UnusableValue("mesh", "the mesh has coordinates that are not finite numbers")
    if len(faces_F3) and not 0 <= faces_F3.min() <= faces_F3.max() < len(vertices_V3):
        raise UnusableValue("mesh", "the mesh has faces with missing corners")
    return vertices_V3, faces_F3


def _geometry(data: bytes, kind: str) -> list[Any]:
    import trimesh

    # No resolver and no materials: no other file is opened.
    scene = trimesh.load_scene(io.BytesIO(data), file_type=kind, skip_materials=True, process=False)
    return list(scene.geometry.values())


def _missing_lines(content: bytes, kind: str) -> int:
    """Return the number of lines that a text file lacks by its header; trimesh does not check it."""
    lines = [line for line in content.splitlines() if line.strip() and not line.lstrip().startswith(COMMENT)]
    if kind == "off":
        counts, rest = lines[0].upper().partition(b"OFF")[2].split(), lines[1:]
        if not counts:
            counts, rest = lines[1].split(), lines[2:]
        return max(0, int(counts[0]) + int(counts[1]) - len(rest))
    if kind == "ply" and b"format ascii" in content[:4096]:
        header = [line.strip() for line in content.partition(b"end_header")[0].splitlines()]
        declared = sum(int(line.split()[2]) for line in header if line.startswith(b"element"))
        body = content.partition(b"end_header")[2]
        return max(0, declared - sum(1 for line in body.splitlines() if line.strip()))
    return 0


def _on_surface(
    vertices_V3: Doubles, faces_F3: npt.NDArray[np.int64], points: int, random: np.random.Generator
) -> Doubles:
    """Sample points evenly from the triangles (Turk 1990, "Generating random points in triangles", Graphics Gems)."""
    corner, one, other = (vertices_V3[faces_F3[:, i]] for i in range(3))
    side, other_side = one - corner, other - corner
    area_F = np.linalg.norm(np.cross(side, other_side), axis=1)
    reach_F = np.cumsum(area_F)
    if not reach_F[-1] > 0 or not np.isfinite(reach_F[-1]):
        raise UnusableValue("mesh", "its faces have no area")
    drawn_P = np.searchsorted(reach_F, random.random(points) * reach_F[-1], side="right").clip(max=len(area_F) - 1)
    along_P2 = random.random((points, 2))
    # A point in the other half of the triangle's parallelogram is mirrored into the triangle.
    along_P2 = np.where(along_P2.sum(axis=1, keepdims=True) > 1, 1 - along_P2, along_P2)
    drawn: Doubles = corner[drawn_P] + along_P2[:, :1] * side[drawn_P] + along_P2[:, 1:] * other_side[drawn_P]
    return drawn


def _of_points(vertices_V3: Doubles, points: int, random: np.random.Generator) -> Doubles:
    """Sample from the vertices; if they are too few, each occurs about equally often."""
    repeats = -(-points // len(vertices_V3))
    order = np.concatenate([random.permutation(len(vertices_V3)) for _ in range(repeats)])
    drawn: Doubles = vertices_V3[order[:points]]
    return drawn
