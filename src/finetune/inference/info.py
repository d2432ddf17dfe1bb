"""The facts about a loaded model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from finetune.inference.known_models import describe_models
from finetune.inference.locate import Location
from finetune.models.encoder import Encoder


@dataclass(frozen=True)
class ModelInfo:
    """What `Model.info` returns.

    `width` is the number of dimensions of an embedding and `dimensions` how many `encode` returns by default; any
    number from 1 to `width` may be asked for. `matryoshka` are the smaller numbers that the model was trained for, as
    far as its run or the list of known models says: others cost quality. `max_length` is in tokens, None without texts.
    `revision` is the SHA-256 over the files of the model.
    """

    name: str
    kind: str
    width: int
    dimensions: int
    matryoshka: tuple[int, ...]
    prompts: Mapping[str, str]
    default_prompt: str
    max_length: int | None
    similarity: str
    parameters: int
    dtype: str
    devices: tuple[str, ...]
    revision: str


def matryoshka_of(location: Location, width: int) -> tuple[int, ...]:
    """Return the numbers of dimensions below `width` that a model was trained for, largest first, as far as known."""
    found: set[int] = set()
    if location.run is not None:
        found = set(_trained_dimensions(OmegaConf.to_container(OmegaConf.load(location.run.config_path))))
    for known in describe_models():
        if known.name == location.name:
            found |= set(known.matryoshka)
    return tuple(sorted((count for count in found if count < width), reverse=True))


def _trained_dimensions(node: Any) -> Iterator[int]:
    """Yield the dimensions of the Matryoshka losses in a config."""
    if not isinstance(node, dict):
        return
    if str(node.get("_target_")).endswith(".Matryoshka"):
        yield from node.get("dimensions") or []
    for inner in node.values():
        yield from _trained_dimensions(inner)


def parameters_of(encoder: Encoder) -> int:
    """Return the number of weights of an encoder."""
    return sum(weight.numel() for weight in encoder.parameters())
