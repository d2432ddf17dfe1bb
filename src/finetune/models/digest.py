"""A digest of the files of a model, which tells models apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

_NOT_PART = ("README.md", ".gitattributes")


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over names and content of all files of a folder except its card and hidden ones."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.name not in _NOT_PART and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
