"""Read the files of an archive in memory: nothing is unpacked to disk, so no name in it can lead anywhere."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune.errors import FinetuneError

LARGEST = 64 << 20  # bytes of one file, uncompressed
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60


def read_files(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files whose names match the regular expression, sorted by name; .gz uncompressed.

    Reads wheels and other zip files, tar files of any compression, and Debian packages. Links are left out.
    """
    with archive.open("rb") as stream:
        magic = stream.read(8)
        stream.seek(0)
        if magic == _AR_MAGIC:
            yield from _read_tar(_data_of_deb(stream), pattern)
        elif magic.startswith(b"PK"):
            yield from _read_zip(stream, pattern)
        else:
            yield from _read_tar(stream, pattern)


def _read_zip(stream: BinaryIO, pattern: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(stream) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not info.is_dir() and re.search(pattern, info.filename):
                with archive.open(info) as file:
                    yield info.filename, _read(file, info.filename)


def _read_tar(stream: BinaryIO, pattern: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream) as archive:
        wanted = [member for member in archive.getmembers() if member.isfile() and re.search(pattern, member.name)]
        for member in sorted(wanted, key=lambda member: member.name):
            file = archive.extractfile(member)
            assert file is not None  # it is a regular file
            yield member.name, _read(file, member.name)


def _read(file: object, name: str) -> bytes:
    content: bytes = file.read(LARGEST + 1)  # type: ignore[attr-defined]
    if name.endswith((".gz", ".dz")) and len(content) <= LARGEST:
        content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
    if len(content) > LARGEST:
        raise FinetuneError(f"{name} is larger than {LARGEST >> 20} MB.", "No source of a task has such a file.")
    return content


def _data_of_deb(stream: BinaryIO) -> BinaryIO:
    """Return the tar file with the data of a Debian package, which is an ar archive (deb(5))."""
    stream.seek(len(_AR_MAGIC))
    while header := stream.read(_AR_HEADER):
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return io.BytesIO(stream.read(size))
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise FinetuneError("A Debian package without data.tar.", "Delete it from the cache.")
