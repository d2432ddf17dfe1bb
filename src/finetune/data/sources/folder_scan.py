"""What is in a folder of images or meshes, without opening any of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from finetune.data.extensions import IMAGES, MESHES
from finetune.data.schema.column_spec import quoted_names
from finetune.data.source import ReadOptions
from finetune.data.sources.errors import fail
from finetune.data.sources.files import fail_unreadable


class FolderKind(NamedTuple):
    """What a folder is of: the word for it, the column that it becomes, how its files end."""

    word: str
    column: str
    suffixes: frozenset[str]


KINDS = {"images": FolderKind("images", "image", IMAGES), "meshes": FolderKind("meshes", "mesh", MESHES)}


@dataclass(frozen=True)
class Scan:
    """The files below `root`, as paths from it with `/`, in the order of their names, folder by folder.

    Hidden files are left out, and those whose names are no Unicode (`unnamable` counts them).
    """

    root: Path
    files: list[str] = field(default_factory=list)
    unnamable: int = 0

    def of(self, kind: FolderKind) -> list[str]:
        """Return the files of this kind."""
        return [file for file in self.files if PurePosixPath(file).suffix.lower() in kind.suffixes]

    def state(self, files: list[str]) -> str:
        """Return a digest of names, sizes and times of these files, and of where they are.

        Not of their content, which would take as long as the images take to be looked at: a file that was changed
        or replaced has another time. `root` counts because paths that start from it are kept.
        """
        digest = hashlib.sha256(os.fsencode(self.root.absolute()))
        for file in files:
            try:
                found = os.stat(self.root / file)  # noqa: PTH116
                digest.update(f"\0{file}\0{found.st_size} {found.st_mtime_ns}".encode())
            except OSError:  # a link to nowhere, say; reading it tells
                digest.update(f"\0{file}\0".encode())
        return digest.hexdigest()


def scan_folder(root: Path, shown: str, key: str) -> Scan:
    """Return what is in the folder; about five seconds for a million files.

    Raises:
        CheckFailed: it is no folder, may not be read, or has links that lead out of it.
    """
    if not root.is_dir():
        what = f"there is no folder '{shown}'." if not root.exists() else f"'{shown}' is no folder."
        fail(key, what, "Name a folder with a folder of files for each class.")
    leaving: list[str] = []
    files: list[str] = []
    try:
        files += _walk(str(root), "", os.path.realpath(root), leaving)
    except OSError as error:
        fail_unreadable(str(error.filename or shown), error, key)
    if leaving:
        many = f" ({len(leaving):,} such links)" if len(leaving) > 1 else ""
        what = f"'{shown}' has a link that leads out of it, {quoted_names(leaving[:1])}{many}."
        fail(key, what, "Put the files themselves there, or name the folder that they are in.")
    named = [file for file in files if file.isascii() or _is_unicode(file)]
    return Scan(root, named, len(files) - len(named))


def folder_kind(found: Scan, options: ReadOptions, shown: str, key: str) -> FolderKind:
    """Return what the folder is of: what `options.format` says, else whichever there is.

    Raises:
        CheckFailed: there is nothing of the kind, or there are both.
    """
    wanted = [KINDS[options.format]] if options.format in KINDS else list(KINDS.values())
    counts = {kind: len(found.of(kind)) for kind in wanted}
    there = [kind for kind in wanted if counts[kind]]
    if len(there) > 1:
        both = " and ".join(f"{counts[kind]:,} {kind.word}" for kind in there)
        fail(key, f"'{shown}' holds {both}.", "Say which are meant: data.format=images or data.format=meshes.")
    if not there:
        words = " or ".join(kind.word for kind in wanted)
        ends = ", ".join(sorted(suffix for kind in wanted for suffix in kind.suffixes))
        few = "It is empty." if not found.files else f"They end in {ends}."
        fail(key, f"'{shown}' holds no {words}.", few)
    return there[0]


def path_cell(file: str) -> str:
    """Return the path as it stands in a column: one that begins like a data: URI must not be taken for one."""
    return f"./{file}" if file.lower().startswith("data:") else file


def _walk(folder: str, inside: str, root: str, leaving: list[str]) -> Iterator[str]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{inside}{entry.name}"
        if entry.is_symlink():
            yield from _link(entry, path, root, leaving)
        elif entry.is_dir():
            yield from _walk(entry.path, f"{path}/", root, leaving)
        elif entry.is_file():
            yield path


def _link(entry: os.DirEntry[str], path: str, root: str, leaving: list[str]) -> Iterator[str]:
    """Return a link to a file inside the root as that; what a link to a folder in it holds is found there."""
    is_data = entry.is_dir() or PurePosixPath(path).suffix.lower() in IMAGES | MESHES
    real = os.path.realpath(entry.path)
    if is_data and os.path.commonpath([root, real]) != root:
        leaving.append(path)
    elif is_data and not entry.is_dir():
        yield path


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 became lone surrogates
        return False
    return True
