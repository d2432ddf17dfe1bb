"""What the items of a column are: texts, images, meshes or vectors, by its type, its first values and its name.

In doubt they are texts: a column of texts is taken for paths only when nearly all of the values are such paths and
those looked for are there, or the column is called so.
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
LOOKED_FOR = 5  # files
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
    """Return the modality of a column: its name, its Arrow type if it has one, some values, where its paths start.

    Vectors are lists of numbers, or texts of them. Images are paths and URLs that end like one, `data:image/` URIs,
    bytes that begin like one, or structs of `bytes` and `path`. A URL that ends otherwise is a text.
    """
    values = [value for value in sample if value is not None and not (isinstance(value, str | bytes) and not value)]
    if kind is not None and is_list_of_numbers(kind):
        return "vector"
    structs = [value for value in values if isinstance(value, Mapping)]
    if structs and all({"bytes", "path"} & set(value) for value in structs):
        values = [value.get("bytes") or value.get("path") for value in structs]
    if of_bytes := [bytes(value[:64]) for value in values if isinstance(value, bytes | bytearray | memoryview)]:
        return _of_bytes(of_bytes)
    if texts := [value for value in values if isinstance(value, str)]:
        return _of_texts(name.strip().lower(), texts, base, named=bool(structs))
    return "vector" if values and all(map(_are_numbers, values)) else "text"


def _of_bytes(values: list[bytes]) -> Modality:
    if _share(map(image.is_image, values), values) > 0.5:
        return "image"
    return "mesh" if _share(map(mesh.is_mesh, values), values) > 0.5 else "text"


def _of_texts(name: str, texts: list[str], base: Path, *, named: bool) -> Modality:
    for modality, suffixes in SUFFIXES.items():
        alike = [text for text in texts if _is_reference(text, modality, suffixes)]
        if len(alike) < NEARLY_ALL * len(texts):
            continue
        # One of several may be missing, and is told as a bad row; where all are, these may be just words.
        if named or NAMES[modality].fullmatch(name) or any(_is_there(text, base) for text in alike[:LOOKED_FOR]):
            return modality
    return "vector" if _are_vectors(name, texts) else "text"


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


def _is_there(text: str, base: Path) -> bool:
    if is_data_uri(text) or url_scheme(text):
        return True
    try:
        return os.path.exists(absolute_path(text, base))  # noqa: PTH110 as the path is opened
    except ValueError:
        return False


def _are_vectors(name: str, texts: list[str]) -> bool:
    """Whether all are numbers: in brackets, or under a telling name, or many of the same count with decimals."""
    if all(map(_BRACKETED.fullmatch, texts)):
        return True
    if not all(map(_BARE.fullmatch, texts)):
        return False
    widths = {len(re.split(r"[\s,;]+", text.strip())) for text in texts}
    # "555 12 34" is a telephone number, "1, 2, 3" somebody's answer.
    return bool(NAMES["vector"].fullmatch(name)) or (len(widths) == 1 and min(widths) >= 8 and "." in texts[0])


def _are_numbers(value: Any) -> bool:
    """Whether the value is a list, a tuple or an array of numbers."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__") or not len(value):
        return False
    return all(isinstance(one, float | int) and not isinstance(one, bool) for one in list(value)) or (
        getattr(getattr(value, "dtype", None), "kind", "") in "fiu" and getattr(value, "ndim", 0) == 1
    )


def _share(are: Any, values: Sequence[Any]) -> float:
    return float(sum(are) / len(values))
