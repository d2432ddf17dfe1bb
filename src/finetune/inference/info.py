"""The facts about a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.models.encoder import Encoder


@dataclass(frozen=True)
class ModelInfo:
    """What `Model.info` returns.

    `width` is the number of dimensions of an embedding and `dimensions` how many `encode` returns by default; any
    number from 1 to `width` may be asked for, which keeps the quality only of models that were trained for it
    (Matryoshka). `max_length` is in tokens, None without texts. `revision` is the SHA-256 over the files of the model.
    """

    name: str
    kind: str
    width: int
    dimensions: int
    prompts: Mapping[str, str]
    default_prompt: str
    max_length: int | None
    similarity: str
    parameters: int
    dtype: str
    devices: tuple[str, ...]
    revision: str


def parameters_of(encoder: Encoder) -> int:
    """Return the number of weights of an encoder."""
    return sum(weight.numel() for weight in encoder.parameters())
