"""Archives are read in memory; downloads are checked against their digest."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from scripts.tasks import archives, download
from scripts.tasks.task import Source

from finetune.errors import FinetuneError


def tar_of(files: dict[str, bytes], mode: str = "w:xz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return stream.getvalue()


def deb_of(files: dict[str, bytes]) -> bytes:
    def member(name: bytes, content: bytes) -> bytes:
        header = name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8)
        return header + str(len(content)).encode().ljust(10) + b"`\n" + content + b"\n" * (len(content) % 2)

    parts = [(b"debian-binary", b"2.0\n"), (b"control.tar.xz", b"odd"), (b"data.tar.xz", tar_of(files))]
    return b"!<arch>\n" + b"".join(member(*part) for part in parts)


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("pack", [zip_of, deb_of, tar_of, lambda files: tar_of(files, "w:gz")])
def test_files_are_read_sorted_and_uncompressed_and_nothing_is_written(pack, tmp_path):
    files = {"b/two.txt.gz": gzip.compress(b"two"), "a/one.txt": b"one", "../outside.txt": b"out", "a/none.md": b"no"}
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "archive").write_bytes(pack(files))
    read = list(archives.read_files(folder / "archive", r"\.txt(\.gz)?$"))
    assert read == [("../outside.txt", b"out"), ("a/one.txt", b"one"), ("b/two.txt.gz", b"two")]
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "archive"]


def test_a_file_that_grows_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 1000)
    (tmp_path / "bomb").write_bytes(zip_of({"zeros.gz": gzip.compress(bytes(100_000))}))
    with pytest.raises(FinetuneError, match=r"zeros.gz is larger"):
        list(archives.read_files(tmp_path / "bomb", ""))


def test_a_cached_file_is_used_and_a_damaged_one_refused(tmp_path):
    digest = hashlib.sha256(b"content").hexdigest()
    source = Source("pip", "no-such-package-of-finetune", "1.0", digest, "MIT")
    (tmp_path / digest).write_bytes(b"content")
    assert download.fetch(source, tmp_path).read_bytes() == b"content"
    (tmp_path / digest).write_bytes(b"damaged")
    with pytest.raises(FinetuneError, match="damaged"):
        download.fetch(source, tmp_path)


def test_another_file_than_the_pinned_one_is_not_kept(tmp_path, monkeypatch):
    def served(source: Source, folder: Path) -> Path:
        (folder / "file").write_bytes(b"another")
        return folder / "file"

    monkeypatch.setitem(download._CLIENTS, "pip", served)
    source = Source("pip", "package", "1.0", "0" * 64, "MIT")
    with pytest.raises(FinetuneError, match=r"package 1.0 \(pip\) has SHA-256"):
        download.fetch(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FinetuneError, match="needs npm"):
        download.fetch(Source("npm", "package", "1.0", "0" * 64, "MIT"), tmp_path)
