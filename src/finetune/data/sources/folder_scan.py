"""The files of a folder of images or meshes, without opening any of them."""

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
    """A kind of folder: the word for its files, their column, and their suffixes."""

    word: str
    column: str
    suffixes: frozenset[str]


KINDS = {"images": FolderKind("images", "image", IMAGES), "meshes": FolderKind("meshes", "mesh", MESHES)}


@dataclass(frozen=True)
class Scan:
    """The files below `root`, as paths from it with `/`, in the order of their names, folder by folder.

    Hidden files are left out, and files whose names are not Unicode (`unnamable` is their number).
    """

    root: Path
    files: list[str] = field(default_factory=list)
    unnamable: int = 0

    def of(self, kind: FolderKind) -> list[str]:
        """Return the files of this kind."""
        return [file for file in self.files if PurePosixPath(file).suffix.lower() in kind.suffixes]

    def state(self, files: list[str]) -> str:
        """Return a digest of the names, sizes and times of these files, and of `root`, as their paths are stored.

        Their content is not hashed, which would take as long as decoding them: a changed file has another time.
        """
        digest = hashlib.sha256(os.fsencode(self.root.absolute()))
        for file in files:
            try:
                found = os.stat(self.root / file)  # noqa: PTH116
                digest.update(f"\0{file}\0{found.st_size} {found.st_mtime_ns}".encode())
            except OSError:  # such as a broken link, which is reported when it is read
                digest.update(f"\0{file}\0".encode())
        return digest.hexdigest()


def scan_folder(root: Path, shown: str, key: str) -> Scan:
    """Return the files of the folder; about five seconds for a million files.

    Raises:
        CheckFailed: it is not a folder, cannot be read, or has links that lead out of it.
    """
    if not root.is_dir():
        what = f"there is no folder '{shown}'."
        if root.exists():
            what = f"'{shown}' is not a folder."
        fail(key, what, "Name a folder with a folder of files for each class.")
    leaving: list[str] = []
    files: list[str] = []
    try:
        files += _walk(str(root), "", os.path.realpath(root), leaving)
    except OSError as error:
        fail_unreadable(str(error.filename or shown), error, key)
    if leaving:
        what = f"'{shown}' has a link that leads out of it, {quoted_names(leaving[:1])}"
        if len(leaving) > 1:
            what += f" ({len(leaving):,} such links)"
        fail(key, f"{what}.", "Put the files themselves there, or name the folder that they are in.")
    named = [file for file in files if file.isascii() or _is_unicode(file)]
    return Scan(root, named, len(files) - len(named))


def folder_kind(found: Scan, options: ReadOptions, shown: str, key: str) -> FolderKind:
    """Return the kind of a folder: as `options.format` says, else by its files.

    Raises:
        CheckFailed: there are no such files, or both kinds.
    """
    wanted = list(KINDS.values())
    if options.format in KINDS:
        wanted = [KINDS[options.format]]
    counts = {kind: len(found.of(kind)) for kind in wanted}
    present = [kind for kind in wanted if counts[kind]]
    if len(present) > 1:
        both = " and ".join(f"{counts[kind]:,} {kind.word}" for kind in present)
        fail(key, f"'{shown}' holds {both}.", "Say which are meant: data.format=images or data.format=meshes.")
    if not present:
        words = " or ".join(kind.word for kind in wanted)
        advice = "It is empty."
        if found.files:
            suffixes = sorted(suffix for kind in wanted for suffix in kind.suffixes)
            advice = f"They end in {', '.join(suffixes)}."
        fail(key, f"'{shown}' holds no {words}.", advice)
    return present[0]


def path_cell(file: str) -> str:
    """Return the path as a cell of a column: one that begins like a data: URI must not be read as one."""
    if file.lower().startswith("data:"):
        return f"./{file}"
    return file


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
    """Yield a link to a file inside the root; the files of a linked folder in the root are found there."""
    is_data = entry.is_dir() or PurePosixPath(path).suffix.lower() in IMAGES | MESHES
    real = os.path.realpath(entry.path)
    if is_data and os.path.commonpath([root, real]) != root:
        leaving.append(path)
    elif is_data and not entry.is_dir():
        yield path


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 became lone surrogates
        return False
    return True
