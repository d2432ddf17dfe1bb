"""Artifacts: what is written is read again byte for byte; what was changed, cut off or made to harm is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import RunError
from finetune.runs.artifact import MANIFEST, ArtifactError, extract_artifact, is_artifact, read_manifest, write_artifact

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 500, "1_Pooling/config.json": b"{}" * 999}


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "saved", FILES)


@pytest.fixture
def artifact(folder, tmp_path):
    write_artifact(folder, tmp_path / "model.zip", {"run": "first"})
    return tmp_path / "model.zip"


def write_files(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def extract(path, tmp_path):
    target = tmp_path / "extracted"
    target.mkdir()
    extract_artifact(path, target)
    return files_in(target)


def test_files_are_read_as_they_were_written(artifact, tmp_path):
    assert extract(artifact, tmp_path) == FILES
    assert read_manifest(artifact).about == {"run": "first"}
    assert is_artifact(artifact)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extracted", "model.zip", "saved"]


def test_the_same_files_make_the_same_zip(folder, artifact, tmp_path):
    other = write_files(tmp_path / "other", dict(reversed(FILES.items())))
    os.utime(other / "config.json", (1, 1))
    write_artifact(other, tmp_path / "other.zip", {"run": "first"})
    assert (tmp_path / "other.zip").read_bytes() == artifact.read_bytes()


def test_other_programs_read_it(artifact):
    with zipfile.ZipFile(artifact) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {*FILES, MANIFEST}


def test_hidden_files_are_left_out(folder, tmp_path):
    write_files(folder, {".cache/x": b"x", ".DS_Store": b"x"})
    assert set(write_artifact(folder, tmp_path / "a.zip").files) == set(FILES)


@pytest.mark.parametrize(
    ("name", "content"),
    [("modeling.py", b"import os"), ("pytorch_model.bin", b"\x80\x02}q"), ("a/x.pt", b"PK\x03\x04")],
)
def test_pickles_and_code_are_not_written(folder, tmp_path, name, content):
    write_files(folder, {name: content})
    with pytest.raises(ArtifactError, match=name):
        write_artifact(folder, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_weights_of_openvino_are_no_pickle(folder, tmp_path):
    write_files(folder, {"openvino/openvino_model.bin": b"\x00\x01weights"})
    write_artifact(folder, tmp_path / "a.zip")
    assert "openvino/openvino_model.bin" in extract(tmp_path / "a.zip", tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no files"):
        write_artifact(tmp_path / "empty", tmp_path / "a.zip")


@given(st.integers(0, 129_000))
def test_a_zip_that_is_cut_off_is_refused(tmp_path_factory, kept):
    folder = tmp_path_factory.mktemp("cut")
    write_artifact(write_files(folder / "saved", FILES), folder / "model.zip")
    whole = (folder / "model.zip").read_bytes()
    (folder / "model.zip").write_bytes(whole[: min(kept, len(whole) - 1)])
    with pytest.raises(ArtifactError):
        extract(folder / "model.zip", folder)


@given(st.integers(0, 129_000), st.integers(1, 255))
def test_a_changed_byte_is_found_or_changes_nothing(tmp_path_factory, place, change):
    folder = tmp_path_factory.mktemp("changed")
    write_artifact(write_files(folder / "saved", FILES), folder / "model.zip")
    content = bytearray((folder / "model.zip").read_bytes())
    content[place % len(content)] ^= change
    (folder / "model.zip").write_bytes(content)
    try:
        assert extract(folder / "model.zip", folder) == FILES
    except ArtifactError as error:
        assert str(error)


def rewrite(artifact, change):
    """Write an artifact again with `change(files, manifest)`; without checks of this library."""
    with zipfile.ZipFile(artifact) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name != MANIFEST}
        manifest = json.loads(archive.read(MANIFEST))
    change(files, manifest)
    with zipfile.ZipFile(artifact, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(MANIFEST, json.dumps(manifest))


def add(name, content=b"x", size=None):
    def change(files, manifest):
        files[name] = content
        sha256 = hashlib.sha256(content).hexdigest()
        key = name.filename if isinstance(name, zipfile.ZipInfo) else name
        manifest["files"][key] = {"bytes": len(content) if size is None else size, "sha256": sha256}

    return change


def link():
    info = zipfile.ZipInfo("model/link.json")
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    "change",
    [
        add("../outside.json"),
        add("/etc/outside.json"),
        add("a/../../outside.json"),
        add("C:/outside.json"),
        add("a\\..\\outside.json"),
        add(".hidden/file.json"),
        add("a//b.json"),
        add("aux. "),
        add(link(), b"/etc/passwd"),
        add("modeling_x.py"),
        add("pytorch_model.bin", b"\x80\x02}q"),
        add("x.json", b"x" * 100, size=10),
        add("x.json", b"x", size=1 << 50),
        lambda files, manifest: files.update({"extra.json": b"x"}),
        lambda files, manifest: files.pop("config.json"),
        lambda files, manifest: files.update({"config.json": b'{"a": 2}'}),
        lambda files, manifest: manifest.update(version=99),
        lambda files, manifest: manifest.update(files=[]),
        lambda files, manifest: manifest.pop("format"),
    ],
)
def test_what_no_writer_makes_is_refused(artifact, tmp_path, change):
    rewrite(artifact, change)
    with pytest.raises(ArtifactError):
        extract(artifact, tmp_path)
    assert not list(tmp_path.parent.glob("outside*"))


def test_two_files_of_one_name_are_refused(artifact, tmp_path):
    with zipfile.ZipFile(artifact, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", b"other")
    with pytest.raises(ArtifactError, match="two files"):
        extract(artifact, tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip at all" * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.zip"):
        read_manifest(tmp_path / "a.zip")


def test_another_zip_is_refused_by_its_missing_manifest(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(ArtifactError, match=MANIFEST):
        read_manifest(tmp_path / "a.zip")


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(ArtifactError, match="no file"):
        read_manifest(tmp_path / "none.zip")


def test_a_failed_write_keeps_the_old_file(folder, artifact, tmp_path):
    before = artifact.read_bytes()
    script = (
        "import resource, signal, sys; from pathlib import Path; from finetune.runs.artifact import write_artifact\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))\n"
        "write_artifact(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, folder, artifact]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert f"{RunError.__module__}.Refused: could not write {artifact}" in failed.stderr
    assert artifact.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
