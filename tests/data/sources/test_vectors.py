from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from finetune.data.bad_rows import BadRows
from finetune.data.source import Source
from finetune.data.sources.vectors import open_vectors
from finetune.errors import CheckFailed


def opened(path: Path) -> Source:
    return open_vectors(path, path.name, "data.path")


def read(path: Path, *names: str) -> Any:
    source = opened(path)
    reading = source.read(list(names) or source.head().names, BadRows())
    assert reading.rows_read == reading.table.num_rows
    return reading.table


def error_message(path: Path) -> str:
    with pytest.raises(CheckFailed) as failed:
        opened(path).head()
    with pytest.raises(CheckFailed):
        read(path, "vector")
    [problem] = failed.value.problems
    return str(problem)


@settings(max_examples=40, deadline=None)
@given(
    nps.arrays(
        st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "u1"]),
        nps.array_shapes(min_dims=2, max_dims=2, max_side=30),
        elements=st.integers(0, 100),
    ),
    st.booleans(),
    st.sampled_from([".npy", ".npz", "packed.npz"]),
)
def test_arrays_saved_by_numpy_are_read(
    tmp_path_factory: pytest.TempPathFactory, array: Any, by_column: bool, ending: str
) -> None:
    path = tmp_path_factory.mktemp("v") / f"v{ending}"
    array = np.asfortranarray(array) if by_column else array
    save = {".npy": np.save, ".npz": np.savez, "packed.npz": np.savez_compressed}[ending]
    save(path, array) if ending == ".npy" else save(path, vector=array)  # type: ignore[operator]
    head = opened(path).head()
    assert (head.names, [row[0] for row in head.sample]) == (["vector"], array[:20].tolist())
    assert read(path)["vector"].to_pylist() == array.tolist()


def test_arrays_are_columns(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(
        path, X=np.ones((3, 2)), y=np.array([1, 0, 1]), name=np.array(["a", "ü", ""]), weight=np.array([0.5, 1, 2])
    )
    head = opened(path).head()
    assert head.names == ["vector", "label", "name", "weight"]
    assert head.sample[1] == ([1.0, 1.0], 0, "ü", 1.0)
    table = read(path, "label", "name")
    assert table.to_pydict() == {"label": [1, 0, 1], "name": ["a", "ü", ""]}
    np.savez(path, X=np.ones((3, 2)), vector=np.zeros((3, 2)))
    assert opened(path).head().names == ["X", "vector"]


def test_an_array_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((1000, 64), np.float32))
    import pyarrow as pa

    before = pa.total_allocated_bytes()
    table = read(tmp_path / "v.npy")
    assert pa.total_allocated_bytes() - before < 10_000
    assert table.num_rows == 1000
    assert [str(one) for one in opened(tmp_path / "v.npy").read(["vector"], BadRows()).locate([4])] == ["v.npy:5"]  # type: ignore[arg-type]


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def test_objects_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.array([[Evil()]], object), allow_pickle=True)
    np.savez("v.npz", vector=np.ones((1, 1)), label=np.array([Evil()], object))
    Path("p.npy").write_bytes(pickle.dumps(Evil()))
    assert "'v.npy' holds Python objects, which may contain code" in error_message(Path("v.npy"))
    assert "the array 'label' in 'v.npz' holds Python objects" in error_message(Path("v.npz"))
    assert "is damaged or not a NumPy file" in error_message(Path("p.npy"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.ones(3), "there are no vectors in 'v.npy'"),
        (np.ones((2, 2, 2)), "has 3 dimensions"),
        (np.float64(1), "has 0 dimensions"),
        (np.ones((0, 3)), "there are no vectors"),
        (np.ones((3, 0)), "has vectors without numbers"),
        (np.ones((2, 2), complex), "holds complex128, which is not a vector"),
        (np.array([["a"]]), "holds <U1, which is not a vector"),
        (np.ones((2, 2), np.longdouble), "which is not a vector"),
        (np.ones((2, 2), bool), "holds bool, which is not a vector"),
        (np.zeros((2, 2), [("a", "f4")]), "which is not a vector"),
    ],
)
def test_arrays_that_are_not_vectors_are_problems(tmp_path: Path, array: Any, what: str) -> None:
    np.save(tmp_path / "v.npy", array)
    assert what in error_message(tmp_path / "v.npy")


def test_arrays_of_different_lengths_are_a_problem(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", vectors=np.ones((3, 2)), labels=np.ones(2))
    assert "differ in their number of rows: vectors has 3, labels has 2" in error_message(tmp_path / "v.npz")


def test_damaged_files_are_problems(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((30, 20)))
    np.savez_compressed(tmp_path / "v.npz", vector=np.random.default_rng(0).random((300, 20)))
    for name in ("v.npy", "v.npz"):
        whole = (tmp_path / name).read_bytes()
        for size in (0, 5, 50, len(whole) - 400, len(whole) - 1):
            (tmp_path / f"cut_{name}").write_bytes(whole[:size])
            assert "damaged" in (found := error_message(tmp_path / f"cut_{name}")) or "incomplete" in found
    middle = len(whole) // 2
    (tmp_path / "bad.npz").write_bytes(whole[:middle] + b"\0\0\0\0\0\0\0\0" + whole[middle + 8 :])
    with pytest.raises(CheckFailed, match="damaged"):
        read(tmp_path / "bad.npz", "vector")


def forged(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)


@pytest.mark.parametrize(
    "shape", ["(99999999999999, 99999999999)", "(10000000, 100)", "(-1, 4)", "('a', 4)", "(2.5, 4)"]
)
def test_forged_headers_allocate_nothing(tmp_path: Path, shape: str) -> None:
    (tmp_path / "v.npy").write_bytes(forged(shape))
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("vector.npy", forged(shape))
    for name in ("v.npy", "v.npz"):
        assert "incomplete" in (found := error_message(tmp_path / name)) or "damaged" in found


def test_a_decompression_bomb_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.sources.vectors.FREE_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "v.npz", vector=np.zeros((1 << 20, 2)))
    assert "grows to 16 MiB when it is unpacked" in error_message(tmp_path / "v.npz")


def test_other_archives_are_problems(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "damaged or not a NumPy file" in error_message(tmp_path / "v.npz")
    with zipfile.ZipFile(tmp_path / "v.npz", "w"):
        pass
    assert "there are no vectors" in error_message(tmp_path / "v.npz")


def test_a_changing_file_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    np.save(path, np.ones((3, 2)))
    before = opened(path).fingerprint()
    assert opened(path).fingerprint() == before
    source = opened(path)
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 2)))
    path.write_bytes(stream.getvalue())
    os.utime(path, ns=(1, 1))
    assert opened(path).fingerprint() != before
    with pytest.raises(CheckFailed, match="changed while it was being read"):
        source.read(["vector"], BadRows())
    with pytest.raises(CheckFailed, match="there is no file"):
        opened(tmp_path / "gone.npy")
