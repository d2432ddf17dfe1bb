"""Real items that an exported model is compared on with the original: texts of many lengths, pairs, images."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from finetune.data.holdout.eval_data import EvalData
from finetune.data.items import Items
from finetune.data.modalities import image
from finetune.models.encoder import Encoder

TEXTS = 128
IMAGES = 16
_JOINED = (4, 16, 64)  # texts that are joined to one, for lengths beyond those of the data
_IMAGE_SIZES = ((32, 32), (64, 48), (200, 120), (333, 500))  # of generated images, in pixels


def real_items(encoder: Encoder, held: EvalData | None) -> list[Any]:
    """Return items that an encoder reads: of the held-out data, or else bundled texts and generated images."""
    items: list[Any] = []
    if "text" in encoder.reads:
        texts = texts_of_many_lengths(_texts(held))
        items += list(zip(texts, reversed(texts), strict=True)) if encoder.scores_pairs else texts
    if "image" in encoder.reads:
        items += _images(held.items if held is not None else None)
    return items


def texts_of_many_lengths(texts: list[str]) -> list[str]:
    """Return at most 128 of the texts, from the shortest to the longest, and longer ones made by joining some."""
    ordered = sorted({text for text in texts if text.strip()}, key=len)
    places = np.unique(np.linspace(0, len(ordered) - 1, min(TEXTS, len(ordered))).round().astype(int))
    return [ordered[place] for place in places] + [" ".join(texts[:count]) for count in _JOINED]


def _texts(held: EvalData | None) -> list[str]:
    if held is not None and len(held.items.texts):
        texts: list[str] = held.items.texts.to_pylist()
        return texts
    with resources.as_file(resources.files("finetune.datasets") / "reverse_dictionary/train.csv") as path:
        column = pa.csv.read_csv(path).column(0)
    bundled: list[str] = column.cast(pa.string()).slice(0, 10 * TEXTS).to_pylist()
    return bundled


def _images(items: Items | None) -> list[Any]:
    for part in items.parts if items is not None else ():
        if part.modality == "image":
            return list(image.load(part.values.slice(0, IMAGES)))
    from PIL import Image

    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in _IMAGE_SIZES
    ]
