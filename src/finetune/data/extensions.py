"""How the names of files end: images and meshes, and what is packed; see `modalities/` and `sources/files.py`."""

from __future__ import annotations

from pathlib import PurePath

# Those that Pillow and trimesh read by themselves.
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"})
MESHES = frozenset({".obj", ".off", ".ply"})
PACKED = frozenset({".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz"})


def kind_by_suffix(path: PurePath) -> str | None:
    """Return `images` or `meshes` for the name of such a file."""
    suffix = path.suffix.lower()
    return "images" if suffix in IMAGES else "meshes" if suffix in MESHES else None


def unpacked_name(name: str) -> str:
    """Return a file's name in small letters, without the suffix of its compression."""
    name = name.lower()
    return name.rpartition(".")[0] if PurePath(name).suffix in PACKED else name
