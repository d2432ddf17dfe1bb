"""Puts the files of an export in place: written elsewhere first, so that an interrupted export leaves nothing half."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from finetune.config.home import expand_home
from finetune.errors import FinetuneError
from finetune.export.folder import as_os_error
from finetune.formats.card import EXPORT_FILE, read_export
from finetune.inference.locate import Location
from finetune.runs.artifact import is_unsafe
from finetune.runs.atomic import check_writable, explain, sync_folder
from finetune.runs.lock import hold_lock

_STAGING = ".export-"  # the names of folders with unfinished files begin so
_LOCK = ".export.lock"
_ELSEWHERE = "choose another folder with --out."
_MAIN_FILES = (".onnx", ".xml")  # these refer to the others of their names, and are what is looked for
_NOT_COPIED = {"onnx", "openvino", EXPORT_FILE}


def destination(location: Location, out: Path | None, digest: str) -> Path:
    """Return the folder that exports are written to: `out`, or without it that of the model itself.

    Raises:
        FinetuneError: the folder of the model is not the user's own; `out` holds something else; the folder cannot be
            written.
    """
    if out is None:
        is_run = location.run is not None and location.folder == location.run.model
        if not is_run and expand_home(location.name).resolve() != location.folder.resolve():
            what = f"{location.name} is not in a folder of yours that exports could be written to."
            raise FinetuneError(what, "Give one with --out FOLDER; the model is copied to it.")
        check_writable(location.folder, "--out", _ELSEWHERE)
        return location.folder
    if out.exists() and not out.is_dir():
        raise FinetuneError(f"--out {out} is a file.", "Give a folder that does not exist yet.")
    if out.is_dir() and any(out.iterdir()) and read_export(out).get("model") != digest:
        what = f"--out {out} exists, and holds something else than exports of this model."
        raise FinetuneError(what, "Give another folder, or remove it.")
    check_writable(out, "--out", _ELSEWHERE)
    return out


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Provide an empty hidden folder in `parent`, removed at the end; holds a lock on `parent`.

    Raises:
        LockHeld: another export to this folder is in progress.
        RunError: the disk is full or cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(parent / _LOCK, f"the folder {parent}", advice=f"Wait for it, or {_ELSEWHERE}"):
            try:
                for abandoned in parent.glob(f"{_STAGING}*/"):  # of exports that were killed
                    shutil.rmtree(abandoned, ignore_errors=True)
                with TemporaryDirectory(dir=parent, prefix=_STAGING) as stage:
                    yield Path(stage)
            finally:
                (parent / _LOCK).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        system_error = as_os_error(error)
        raise explain(system_error, f"export to {parent}", _ELSEWHERE) from error


def copy_model(folder: Path, out: Path) -> None:
    """Copy the folder of a model without its exports, hidden files, pickles and code. Raises OSError."""

    def left_out(parent: str, names: list[str]) -> set[str]:
        return {name for name in names if name.startswith(".") or name in _NOT_COPIED or _is_unsafe(parent, name)}

    shutil.copytree(folder, out, ignore=left_out)


def _is_unsafe(parent: str, name: str) -> bool:
    path = Path(parent) / name
    if path.is_dir():
        return name == "__pycache__"
    with path.open("rb") as file:
        return is_unsafe(name, file.read(8))


def publish_files(stage: Path, folder: Path) -> None:
    """Move all files below `stage` to the same places below `folder`; each is complete there, or missing.

    A file that others belong to (weights) is removed before these are replaced, and moved last. Raises OSError.
    """
    files = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
    files.sort(key=lambda path: (path.suffix in _MAIN_FILES, path))
    for file in files:
        with (stage / file).open("rb") as written:
            os.fsync(written.fileno())
    for file in files:
        if file.suffix in _MAIN_FILES:
            (folder / file).unlink(missing_ok=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (stage / file).replace(folder / file)
        sync_folder((folder / file).parent)


def publish_folder(stage: Path, folder: Path) -> None:
    """Rename a complete folder to `folder`, in place of an earlier one. Raises OSError."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    stage.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)
