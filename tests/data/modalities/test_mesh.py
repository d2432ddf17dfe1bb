from __future__ import annotations

import base64
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.items import Part
from finetune.data.modalities import facts, load
from finetune.errors import CheckFailed, FinetuneError, RunError
from tests.data.modalities.conftest import prepared

OFF = b"OFF\n# a triangle\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
OBJ = b"mtllib ../secret.mtl\no part\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl gone\nf 1 2 3\n"
HEADER = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
PLY = HEADER + b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
POINTS = HEADER + b"end_header\n0 0 0\n1 0 0\n0 1 0\n"
BINARY = (
    HEADER.replace(b"ascii", b"binary_little_endian") + b"end_header\n" + struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
)
WIDE = b"OFF\n8 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n9 0 0\n9.5 0 0\n9.5 0.5 0\n9 0.5 0\n4 0 1 2 3\n4 4 5 6 7\n"


def clouds(values: list[bytes], **options: object) -> np.ndarray:
    _, bad, column = prepared("mesh", values, **options)
    assert bad == []
    found: np.ndarray = load(Part("mesh", column.combine_chunks()))
    return found


@pytest.mark.parametrize(
    "content", [OFF, OFF.replace(b"OFF\n# a triangle\n", b"OFF"), OBJ, PLY], ids=["off", "modelnet", "obj", "ply"]
)
def test_surfaces_are_sampled(content: bytes) -> None:
    [cloud] = clouds([content], points=500, unit_sphere=False)
    assert (cloud.shape, cloud.dtype) == ((500, 3), np.float32)
    x, y, z = cloud.T
    assert (z == 0).all()
    assert (x >= 0).all() and (y >= 0).all() and (x + y <= 1 + 1e-6).all()
    assert np.abs(cloud.mean(0) - (1 / 3, 1 / 3, 0)).max() < 0.05  # even over the triangle
    assert len(np.unique(cloud, axis=0)) == 500


@pytest.mark.parametrize(
    "content", [POINTS, BINARY, b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", b"OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n"]
)
def test_points_without_faces_are_sampled(content: bytes) -> None:
    [few], [many] = (clouds([content], points=points, unit_sphere=False) for points in (2, 7))
    corners = {(0, 0, 0), (1, 0, 0), (0, 1, 0)}
    assert len({tuple(point) for point in few} & corners) == 2
    counts = [sum(tuple(point) == corner for point in many) for corner in corners]
    assert sorted(counts) in ([2, 2, 3], [1, 3, 3], [2, 2, 3])


def test_the_larger_face_has_more_points() -> None:
    [cloud] = clouds([WIDE], points=4000, unit_sphere=False)
    assert abs((cloud[:, 0] < 5).mean() - 1 / 1.25) < 0.03


def test_the_unit_sphere() -> None:
    [cloud] = clouds([WIDE.replace(b"9", b"900")], points=64)
    assert np.abs(cloud.mean(0)).max() < 1e-6
    assert abs(np.linalg.norm(cloud, axis=1).max() - 1) < 1e-6


def test_the_same_mesh_is_the_same_cloud_at_any_path(tmp_path: Path) -> None:
    for name in ("a.off", "b 'c'\n.OFF"):
        (tmp_path / name).write_bytes(OFF)
    texts = ["a.off", "b 'c'\n.OFF", "data:model/off;base64," + base64.b64encode(OFF).decode()]
    as_texts, bad, _ = prepared("mesh", texts, tmp_path)
    as_bytes, _, _ = prepared("mesh", [OFF, OBJ], threads=1)
    assert bad == []
    assert {*as_texts, as_bytes[0]} == {as_texts[0]}
    assert as_bytes[1] != as_bytes[0]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"hello", "there are no points in it"),
        (b"\x89PNG\r\n\x1a\n\0\0", "there are no points in it"),
        (OFF[:-10], "is incomplete"),
        (PLY[:-10], "is incomplete"),
        (POINTS[:-7], "is incomplete"),
        (BINARY[:-4], "is not a valid PLY file"),
        (b"OFF\n", "is not a valid OFF file"),
        (b"OFF\n-3 1 0\n", "there are no points"),
        (b"OFF\n99999999999999 1 0\n0 0 0\n", "is incomplete"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "is not a valid OFF file"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "is not a valid OBJ file"),
        (HEADER.replace(b" 3", b" 999999999999"), "is incomplete"),
        (b"ply\nformat ascii 1.0\n", "is not a valid PLY file"),
        (OFF.replace(b"1 0 0", b"nan 0 0"), "not finite numbers"),
        (OFF.replace(b"1 0 0", b"1e200 0 0"), ""),
        (OFF.replace(b"0 1 0", b"2 0 0"), "its faces have no area"),
        (b"v 1 1 1\nv 1 1 1\n", "all its points are the same"),
    ],
)
def test_an_invalid_mesh_is_reported(content: bytes, what: str) -> None:
    stored, bad, _ = prepared("mesh", [content, OFF], unit_sphere=False)
    assert [value is None for value in stored] == [True, False]
    assert [(row, kind) for row, kind, _ in bad] == [(0, "mesh")]
    assert what in bad[0][2]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([OFF, OBJ, PLY, BINARY]), st.integers(0, 400), st.binary(max_size=6))
def test_damaged_meshes_are_valid_or_reported(content: bytes, place: int, noise: bytes) -> None:
    damaged = content[:place] + noise + content[place + len(noise) :]
    stored, bad, _ = prepared("mesh", [damaged], points=8)
    assert (stored[0] is None) == (len(bad) == 1)


def test_no_other_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "secret.mtl").write_text("newmtl gone\nmap_Kd secret.png\n")
    (tmp_path / "a" / "a.obj").write_bytes(OBJ)
    opened: list[str] = []
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda file, *args, **more: opened.append(str(file)) or real(file, *args, **more)
    )
    assert prepared("mesh", ["a/a.obj"], tmp_path)[1] == []
    assert [name for name in opened if str(tmp_path) in name] == [str(tmp_path / "a" / "a.obj")]


def test_a_column_of_another_type_is_a_problem() -> None:
    with pytest.raises(CheckFailed, match="expected meshes"):
        prepared("mesh", [1.0])


def test_facts_and_clouds_of_several_sizes() -> None:
    _, _, column = prepared("mesh", [OFF, PLY], points=16)
    assert facts(Part("mesh", column.combine_chunks())) == {"points_per_mesh": 16}
    assert facts(Part("mesh", pa.array([], pa.large_binary()))) == {}
    assert load(Part("mesh", pa.array([], pa.large_binary()))).shape == (0, 0, 3)
    mixed = pa.array([bytes(48), bytes(96)], pa.large_binary())
    with pytest.raises(RunError, match="meshes of 12, 24 numbers"):
        load(Part("mesh", mixed))


def test_without_trimesh_the_install_command_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(FinetuneError, match=r"pip install 'finetune\[meshes\]'"):
        prepared("mesh", [OFF])
