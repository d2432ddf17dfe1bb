"""How the names of images and meshes end that Pillow and trimesh read by themselves; see `modalities/`."""

from __future__ import annotations

from pathlib import PurePath

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"})
MESHES = frozenset({".obj", ".off", ".ply"})


def kind_by_suffix(path: PurePath) -> str | None:
    """Return `images` or `meshes` for the name of such a file."""
    suffix = path.suffix.lower()
    return "images" if suffix in IMAGES else "meshes" if suffix in MESHES else None
