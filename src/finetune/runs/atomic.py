"""Atomic writes of files, and plain error messages for errors of the file system."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from finetune.errors import CheckFailed, Problem, Refused

PROBE = ".finetune-"  # the names of folders begin so that are made and removed to see whether that is possible
_ELSEWHERE = "choose another folder with output_root=/path/to/a/disk."
_REASONS = {
    errno.ENOSPC: ("the disk is full", f"free some space there, or {_ELSEWHERE}"),
    errno.EDQUOT: ("your disk quota is used up", f"free some space there, or {_ELSEWHERE}"),
    errno.EFBIG: ("the file is larger than the system allows", "Raise the limit (ulimit -f)."),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("permission denied", _ELSEWHERE),
    errno.EPERM: ("the system does not permit it", _ELSEWHERE),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", _ELSEWHERE),
    errno.EISDIR: ("there is a folder of that name", "Rename or remove it."),
    errno.ENOENT: ("the folder no longer exists, or cannot be made there", "Was it moved or deleted?"),
    errno.ENAMETOOLONG: ("the path is too long", "Choose a shorter name= or output_root=."),
    errno.EIO: ("the disk reports an input/output error", "Check the disk before you trust its files."),
    errno.ESTALE: ("the network file system lost the file", "Try again when the file server is available."),
}


def explain(error: OSError, doing: str, elsewhere: str = _ELSEWHERE) -> Refused:
    """Return an error that says in plain words why the operating system refused, and what to do.

    `doing` completes "could not …". `elsewhere` says how to choose another folder: for a run's outputs `output_root`.
    """
    fallback = (error.strerror or str(error) or type(error).__name__, _ELSEWHERE)
    reason, advice = _REASONS.get(error.errno or 0, fallback)
    # In lower case, since it may be in the middle of the sentence.
    advice = advice.replace(_ELSEWHERE, elsewhere[:1].lower() + elsewhere[1:])
    return Refused(f"could not {doing}: {reason}.", advice[:1].upper() + advice[1:])


@contextmanager
def explained(doing: str, elsewhere: str = _ELSEWHERE) -> Iterator[None]:
    """Convert any OSError in the `with` block by `explain`."""
    try:
        yield
    except OSError as error:
        raise explain(error, doing, elsewhere) from error


def check_writable(folder: Path, key: str, elsewhere: str) -> None:
    """Check that files can be written to a folder, or that it can be created; leaves nothing behind.

    Raises:
        CheckFailed: the operating system refuses; `key` is the setting that names the folder, and `elsewhere` is as in
            `explain`.
    """
    existing = folder = folder.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        with TemporaryDirectory(prefix=PROBE, dir=existing):
            pass
    except OSError as error:
        if error.errno == errno.ENOENT:  # in /proc, for example
            error = OSError(errno.EPERM, os.strerror(errno.EPERM))
        refused = explain(error, f"write to {existing}", elsewhere)
        raise CheckFailed([Problem(key, refused.what, refused.advice)]) from error


@contextmanager
def open_atomically(path: Path, draft: Path | None = None, elsewhere: str = _ELSEWHERE) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` at the end of the `with` block: at any time it is the old or the new one.

    It is written as `draft`, by default under a name that no other thread of this machine uses. `elsewhere` is as in
    `explain`.

    Raises:
        RunError: the operating system refuses; the old file is unchanged.
    """
    if draft is None:
        # In the same folder, because a rename is atomic only within one file system.
        draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # so that it is whole after a power cut, too
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise explain(error, f"write {path}", elsewhere) from error
    finally:
        draft.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str, elsewhere: str = _ELSEWHERE) -> None:
    """Replace a UTF-8 file as `open_atomically` does."""
    with open_atomically(path, elsewhere=elsewhere) as file:
        # Names from the command line may contain bytes that are not UTF-8 (lone surrogates).
        file.write(text.encode("utf-8", "backslashreplace"))


def write_json_atomically(path: Path, content: Any, elsewhere: str = _ELSEWHERE) -> None:
    """Write `content` as strict JSON (see `to_json`), indented."""
    write_text_atomically(path, to_json(content, indent=2) + "\n", elsewhere)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if it cannot be read or is not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def to_json(content: Any, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return strict JSON: NaN and infinities become null, NumPy values plain ones, other objects their `str`."""
    return json.dumps(_to_plain(content), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):  # bool is an int
        return value
    # By attribute, to import neither NumPy nor torch here.
    if hasattr(value, "tolist"):
        return _to_plain(value.tolist())
    return str(value)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable; ignored on file systems that do not support it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
