"""The encoder of a run or of an evaluation, built from the config and the data."""

from __future__ import annotations

import numpy as np
from omegaconf import DictConfig

from finetune.config.build import build
from finetune.data.items import Items
from finetune.models.encoder import Encoder


def build_encoder(node: DictConfig, items: Items | None) -> Encoder:
    """Return the encoder of a config; `input_width=auto` becomes the length of the vectors among `items`.

    Raises:
        FinetuneError: the model is not found or cannot be loaded.
    """
    if items is not None and node.get("input_width") == "auto" and len(items.parts) > 1:
        node = node.copy()
        node.input_width = _vector_length(items)
    encoder: Encoder = build(node, "model")
    return encoder


def _vector_length(items: Items) -> int:
    first_vector: bytes = items.parts[1].values[0].as_py()
    return len(first_vector) // np.dtype(np.float32).itemsize
