"""Detection of the modality of a column (texts, images, meshes or vectors) by its type, first values and name.

The default is text: a column of texts holds paths only if nearly all values look like such paths, and some of the files
exist or the column is named so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from finetune.data.extensions import IMAGES, MESHES
from finetune.data.items import Modality
from finetune.data.modalities import image, mesh
from finetune.data.modalities.references import absolute_path, is_data_uri, url_scheme
from finetune.data.modalities.vector import is_list_of_numbers

NEARLY_ALL = 0.8
CHECKED_FILES = 5
LONGEST_PATH = 4096
SUFFIXES: dict[Modality, frozenset[str]] = {"image": IMAGES, "mesh": MESHES}
NAMES: dict[Modality, re.Pattern[str]] = {
    "image": re.compile(r"(.*[_ ])?(image|img|picture|photo|photograph)s?([_ ](path|file|url|uri|name))?"),
    "mesh": re.compile(r"(.*[_ ])?(mesh|meshes)([_ ](path|file|url|uri|name))?"),
    "vector": re.compile(r"(.*[_ ])?(vector|embedding|emb|vec|features)s?"),
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_BRACKETED = re.compile(rf"\s*[\[(]\s*{_NUMBER}(?:[\s,;]+{_NUMBER})+\s*[\])]\s*")
_BARE = re.compile(rf"\s*{_NUMBER}(?:[\s,;]+{_NUMBER})+\s*")


def detect_modality(name: str, kind: pa.DataType | None, sample: Sequence[Any], base: Path) -> Modality:
    """Return the modality of a column, given its name, Arrow type (if it has one), some values and base of its paths.

    Vectors are lists of numbers, or texts of them. Images are paths and URLs with a suffix of images, `data:image/`
    URIs, bytes with the signature of an image, or structs of `bytes` and `path`. A URL with another suffix is a text.
    """
    values = [value for value in sample if value is not None and not _is_empty(value)]
    if kind is not None and is_list_of_numbers(kind):
        return "vector"
    structs = [value for value in values if isinstance(value, Mapping)]
    if structs and all({"bytes", "path"} & set(value) for value in structs):
        values = [value.get("bytes") or value.get("path") for value in structs]
    starts = [bytes(value[:64]) for value in values if isinstance(value, bytes | bytearray | memoryview)]
    if starts:
        return _modality_of_bytes(starts)
    texts = [value for value in values if isinstance(value, str)]
    if texts:
        return _modality_of_texts(name.strip().lower(), texts, base, are_references=bool(structs))
    if values and all(map(_are_numbers, values)):
        return "vector"
    return "text"


def _is_empty(value: Any) -> bool:
    return isinstance(value, str | bytes) and not value


def _modality_of_bytes(values: list[bytes]) -> Modality:
    if sum(map(image.is_image, values)) > 0.5 * len(values):
        return "image"
    if sum(map(mesh.is_mesh, values)) > 0.5 * len(values):
        return "mesh"
    return "text"


def _modality_of_texts(name: str, texts: list[str], base: Path, *, are_references: bool) -> Modality:
    for modality, suffixes in SUFFIXES.items():
        references = [text for text in texts if _is_reference(text, modality, suffixes)]
        if len(references) < NEARLY_ALL * len(texts):
            continue
        if are_references or NAMES[modality].fullmatch(name):
            return modality
        # Some files may be missing, and are reported as bad rows; if all are missing, these may be just words.
        if any(_exists(text, base) for text in references[:CHECKED_FILES]):
            return modality
    if _are_vectors(name, texts):
        return "vector"
    return "text"


def _is_reference(text: str, modality: Modality, suffixes: frozenset[str]) -> bool:
    if is_data_uri(text):
        return text[5:].lower().startswith({"image": "image/", "mesh": "model/"}[modality])
    if len(text) > LONGEST_PATH:
        return False
    try:
        path = urlsplit(text).path if url_scheme(text) else text
    except ValueError:
        return False
    return PurePosixPath(path).suffix.lower() in suffixes


def _exists(text: str, base: Path) -> bool:
    if is_data_uri(text) or url_scheme(text):
        return True
    try:
        return os.path.exists(absolute_path(text, base))  # noqa: PTH110 a string, as in references.py
    except ValueError:
        return False


def _are_vectors(name: str, texts: list[str]) -> bool:
    """Whether all texts are lists of numbers: bracketed, or in a column named so, or long and of the same length."""
    if all(map(_BRACKETED.fullmatch, texts)):
        return True
    if not all(map(_BARE.fullmatch, texts)):
        return False
    widths = {len(re.split(r"[\s,;]+", text.strip())) for text in texts}
    # "555 12 34" is a telephone number, "1, 2, 3" may be an answer.
    return bool(NAMES["vector"].fullmatch(name)) or (len(widths) == 1 and min(widths) >= 8 and "." in texts[0])


def _are_numbers(value: Any) -> bool:
    """Whether the value is a list, a tuple or an array of numbers."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__") or not len(value):
        return False
    if all(isinstance(number, float | int) and not isinstance(number, bool) for number in list(value)):
        return True
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return kind in "fiu" and getattr(value, "ndim", 0) == 1
