"""Artifacts: a folder, such as a saved model, as one zip file with checksums, which is the same on every machine.

The zip has the files of the folder, and last `artifact.json`: the format, and size and SHA-256 of each file. Text is
compressed, weights are stored. The same folder makes the same zip, byte for byte.

Reading trusts nothing in a zip: its files have to be exactly those of `artifact.json`, with these sizes and checksums,
under plain relative names. Pickles and Python code are neither written nor read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from finetune.errors import FinetuneError
from finetune.runs.atomic import open_atomically, to_json

MANIFEST = "artifact.json"
FORMAT = "finetune-artifact"
VERSION = 1

MOST_BYTES = 256 << 30  # of all files of an artifact
MOST_FILES = 10_000
_MOST_MANIFEST_BYTES = 16 << 20
_READ = 1 << 20
_MADE = (1980, 1, 1, 0, 0, 0)  # the date of every file: the time of writing would change the checksum of the zip
_STORED = {".safetensors", ".onnx", ".bin", ".npy", ".png", ".jpg", ".parquet", ".zip"}  # gain nothing by compression
_UNSAFE = {".py", ".pyc", ".pyd", ".so", ".dll", ".sh", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill"}
_PICKLES = (b"\x80", b"PK\x03\x04")  # a .bin that begins so is a pickle of torch, not the weights of OpenVINO
_NAME = re.compile(r"[^\x00-\x1f\\:*?\"<>|]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GET_AGAIN = "Get the file again, or write it again with `finetune runs save`."


class ArtifactError(FinetuneError):
    """A zip that is no artifact, is damaged, or has something that is never read."""


@dataclass(frozen=True)
class Manifest:
    """The content of `artifact.json`: `files` has size in bytes and SHA-256 of each; `about` is free to the writer.

    `digest` is the SHA-256 of `artifact.json` itself, which identifies the content of the artifact.
    """

    files: Mapping[str, tuple[int, str]]
    about: Mapping[str, Any]
    digest: str


def write_artifact(folder: Path, out_path: Path, about: Mapping[str, Any] | None = None) -> Manifest:
    """Write all files of `folder` into the zip `out_path`, which is replaced atomically; hidden files are left out.

    `about` is stored in `artifact.json`, such as the name of the run; plain JSON values.

    Raises:
        ArtifactError: the folder has no files, or one that is never written: a pickle, Python code.
        RunError: the disk is full or cannot be written; an existing file is then unchanged.
    """
    files = files_of(folder)
    with open_atomically(out_path, elsewhere="Choose another folder.") as file:
        return _write_zip(file, folder, files, about or {})


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of an artifact after checking it against the list of files in the zip.

    Raises:
        ArtifactError: it is no artifact, is cut off, or has something that is never read.
    """
    with _opened(path) as archive:
        return _read_manifest(archive, path)


def extract_artifact(path: Path, folder: Path) -> Manifest:
    """Write the files of an artifact into the empty `folder`, each checked against its checksum.

    Raises:
        ArtifactError: as `read_manifest`; or a checksum differs.
        OSError: the folder cannot be written.
    """
    with _opened(path) as archive:
        manifest = _read_manifest(archive, path)
        free = shutil.disk_usage(folder).free
        needed = sum(size for size, _ in manifest.files.values())
        if needed > free:
            what = f"{path}: its files take {needed >> 20:,} MiB, and there are {free >> 20:,} MiB free at {folder}."
            raise ArtifactError(what, "Free some space, or choose another place for the cache with FINETUNE_CACHE.")
        for name, (size, sha256) in manifest.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("xb") as file:
                if _copy(source, file, size) != (size, sha256):
                    raise ArtifactError(f"{path}: the checksum of {name} differs, so it is damaged.", _GET_AGAIN)
            with target.open("rb") as file:
                if is_unsafe(name, file.read(8)):
                    raise _unsafe(path, name)
    return manifest


def is_artifact(path: Path) -> bool:
    """Return whether a path is a zip file; `read_manifest` checks more."""
    return path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))


def files_of(folder: Path) -> list[str]:
    """Return the names of the files of a folder that are passed on, relative to it and sorted; hidden ones are not.

    Raises:
        ArtifactError: there are none, or one is never passed on: a pickle, Python code.
    """
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in PurePosixPath(name).parts):
            names.append(name)
    names = sorted(set(names) - {MANIFEST})
    if not names:
        raise ArtifactError(f"there are no files in {folder}.", "Give the folder of a saved model.")
    for name in names:
        with (folder / name).open("rb") as file:
            if is_unsafe(name, file.read(8)):
                what = f"{folder / name} is a pickle or code, which is never passed on."
                raise ArtifactError(what, "Remove it, or save the model as safetensors.")
    return names


def is_unsafe(name: str, start: bytes) -> bool:
    """Return whether a file is a pickle or code, by its name and its first 8 bytes."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in _UNSAFE or (suffix == ".bin" and start.startswith(_PICKLES))


def _write_zip(file: IO[bytes], folder: Path, names: Iterable[str], about: Mapping[str, Any]) -> Manifest:
    import finetune

    files: dict[str, tuple[int, str]] = {}
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            with (folder / name).open("rb") as source, archive.open(_info(name), "w", force_zip64=True) as target:
                files[name] = _copy(source, target)
        listed = {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in files.items()}
        content = {"format": FORMAT, "version": VERSION, "finetune": finetune.__version__}
        written = to_json({**content, "about": about, "files": listed}, indent=1).encode()
        archive.writestr(_info(MANIFEST), written)
    return Manifest(files, about, hashlib.sha256(written).hexdigest())


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _MADE)
    is_compressed = PurePosixPath(name).suffix.lower() not in _STORED
    info.compress_type = zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED
    info.external_attr = 0o644 << 16
    return info


def _copy(source: IO[bytes], target: IO[bytes], most: int | None = None) -> tuple[int, str]:
    """Copy a stream, at most a byte more than `most`; return how many bytes were copied, and their SHA-256."""
    digest, copied = hashlib.sha256(), 0
    while block := source.read(_READ):
        target.write(block)
        digest.update(block)
        copied += len(block)
        if most is not None and copied > most:
            break
    return copied, digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise ArtifactError(f"there is no file {path}.", "Check its path.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        what = f"{path} is not a zip file, or it is cut off or damaged ({error})."
        raise ArtifactError(what, _GET_AGAIN) from error


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    entries = archive.infolist()
    by_name = {entry.filename: entry for entry in entries}
    entry = by_name.pop(MANIFEST, None)
    if entry is None or entry.file_size > _MOST_MANIFEST_BYTES:
        raise ArtifactError(
            f"{path} has no {MANIFEST}, so it is not an artifact.", "Write one with `finetune runs save`."
        )
    if len(by_name) + 1 != len(entries) or len(entries) > MOST_FILES:
        raise ArtifactError(f"{path} has two files of one name, or too many files.", _GET_AGAIN)
    with archive.open(entry) as file:
        content = file.read(_MOST_MANIFEST_BYTES + 1)
    try:
        read = json.loads(content)
        if read["format"] != FORMAT or read["version"] != VERSION:
            what = f"{path}: its format is {read['format']} {read['version']}, and only {FORMAT} {VERSION} is read."
            raise ArtifactError(what, "Use the version of finetune that wrote it.")
        files = {str(name): (int(each["bytes"]), str(each["sha256"])) for name, each in read["files"].items()}
        manifest = Manifest(files, dict(read.get("about") or {}), hashlib.sha256(content).hexdigest())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: its {MANIFEST} is damaged.", _GET_AGAIN) from error
    if set(files) != set(by_name):
        example = min(set(files) ^ set(by_name))
        raise ArtifactError(f"{path}: its files are not those of its {MANIFEST}, such as {example!r}.", _GET_AGAIN)
    for name, (size, sha256) in files.items():
        _check_entry(by_name[name], size, sha256, path)
    if sum(size for size, _ in files.values()) > MOST_BYTES:
        raise ArtifactError(f"{path}: its files are larger than {MOST_BYTES >> 30} GiB.", "Use a folder instead.")
    return manifest


def _check_entry(entry: zipfile.ZipInfo, size: int, sha256: str, path: Path) -> None:
    """Check that a file of a zip has a plain relative name, is no link, and has the size of the manifest."""
    name = entry.filename
    parts = name.split("/")
    is_plain = all(map(_is_plain, parts))
    is_file = (entry.external_attr >> 28) in (0, 0o10)  # the type of a Unix file: none, or regular
    if not is_plain or not is_file or entry.is_dir():
        raise ArtifactError(f"{path}: {name!r} is not the name of a plain file in the folder.", _GET_AGAIN)
    if entry.flag_bits & 1 or size < 0 or entry.file_size != size or not _SHA256.fullmatch(sha256):
        raise ArtifactError(f"{path}: {name} is not as {MANIFEST} describes it.", _GET_AGAIN)
    if is_unsafe(name, b""):
        raise _unsafe(path, name)


def _is_plain(part: str) -> bool:
    """Return whether a part of a name is a visible file or folder on every system: no `..`, no drive, no separator."""
    return bool(_NAME.fullmatch(part)) and not part.startswith(".") and not part.endswith((" ", "."))


def _unsafe(path: Path, name: str) -> ArtifactError:
    return ArtifactError(f"{path}: {name} is a pickle or code, which is never read.", "Use safetensors weights.")
