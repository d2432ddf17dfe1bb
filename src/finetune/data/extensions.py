"""File name extensions of images, meshes and compressed files; see `modalities/` and `sources/files.py`."""

from __future__ import annotations

from pathlib import PurePath

# Read by Pillow and trimesh without further packages.
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"})
MESHES = frozenset({".obj", ".off", ".ply"})
PACKED = frozenset({".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz"})


def kind_by_suffix(path: PurePath) -> str | None:
    """Return `images` or `meshes` by the extension of a file, None for any other."""
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return "images"
    if suffix in MESHES:
        return "meshes"
    return None


def unpacked_name(name: str) -> str:
    """Return a file's name in lower case, without the suffix of its compression."""
    name = name.lower()
    if PurePath(name).suffix in PACKED:
        return name.rpartition(".")[0]
    return name
