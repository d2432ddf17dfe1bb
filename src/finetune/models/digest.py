"""A digest of the files of a model, which tells models apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

# The ranges belong to vectors in int8, the rest says nothing about the weights.
_NOT_PART = ("README.md", ".gitattributes", "export.json", "int8_ranges.json")
_EXPORTED = {"onnx", "openvino"}  # folders with the same weights in another format


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over names and content of all files of a folder except its card, exports and hidden files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_part = path.is_file() and path.name not in _NOT_PART and not _EXPORTED & set(name.parts[:-1])
        if is_part and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
