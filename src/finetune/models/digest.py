"""A digest of the files of a model, which tells models apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

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


def digest_of_weights(module: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and values of all parameters and buffers of a module."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
