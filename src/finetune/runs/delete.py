"""Deleting a run: never an active one, never a folder that is not a run, never outside the root folder."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.runs.atomic import explained
from finetune.runs.directory import RunDirectory
from finetune.runs.kept_data import FOLDER, remove_unused
from finetune.runs.record import ENDED, is_run, read_run

_TRASH = ".removed-"  # prefix of a run that is being deleted; names of runs never start with a dot


def check_deletable(path: Path, root: Path) -> None:
    """Raise FinetuneError if `path` is not a run in the folder `root` that may be deleted."""
    name = f"{path} is not removed"
    if path.is_symlink() or path.parent.is_symlink():
        raise FinetuneError(f"{name}: it is a link to another folder.", "Remove the link yourself.")
    if path.resolve().parent.parent != root.resolve():
        raise FinetuneError(f"{name}: it is not a run in {root}.", "Give the folder of its runs with --root.")
    if not path.exists():
        raise FinetuneError(f"there is no run {path}.", "It was deleted or moved.")
    if not is_run(path):
        raise FinetuneError(f"{name}: it is not a run of finetune.", "Remove it yourself if that is what you want.")


def delete_run(path: Path, root: Path) -> None:
    """Delete one run completely; it disappears for other processes at once.

    Raises:
        FinetuneError: it must not be deleted.
        RunError: a process holds its lock, or the operating system refuses.
    """
    check_deletable(path, root)
    run = RunDirectory(path)
    # While this process holds the lock, no other one can resume the run.
    with run.lock() as lock:
        record = read_run(path)
        if record.has_active_job:
            what = f"{path} is not removed: it is {record.state} as job {record.job} of a cluster."
            raise FinetuneError(what, f"Cancel it first: finetune runs cancel {shlex.quote(str(path))}")
        if not lock.is_supported and record.state not in ENDED:
            advice = "Remove it yourself when you are sure that it is not running."
            raise FinetuneError(f"{path} is not removed: {record.reason}", advice)
        trash = path.with_name(f"{_TRASH}{path.name[:100]}.{secrets.token_hex(4)}")
        with explained(f"remove {path}"):
            path.rename(trash)
            uses_kept_data = _uses_kept_data(trash)
            shutil.rmtree(trash)
    if uses_kept_data:
        remove_unused(root)
    # Also those of earlier deletions that were killed.
    for leftover in path.parent.glob(f"{_TRASH}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty: it contains other runs
        path.parent.rmdir()


def _uses_kept_data(path: Path) -> bool:
    try:
        return f"/{FOLDER}/".encode() in RunDirectory(path).overrides_path.read_bytes()
    except OSError:
        return False
