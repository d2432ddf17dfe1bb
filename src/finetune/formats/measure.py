"""Measures an encoder: its embeddings of given items, and how fast it is on this machine's CPU.

Shapes: N items, D width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune.errors import RunError
from finetune.formats.targets import Precision
from finetune.inference import encode as encoding
from finetune.inference.build_encoder import InferenceSettings
from finetune.inference.embedder import LocalEmbedder
from finetune.inference.quantize import Floats
from finetune.models.encoder import Encoder

# The largest difference that an export may have, relative to the largest value of the original. A quantized export is
# judged by its metric; here it only has to be a version of the same model.
_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1, "int8": 0.75}
_REPEATS, _WARM_UP, _MOST_SECONDS = 20, 2, 2.0


class ExportFailed(RunError):
    """An export that differs too much from the original, or loses too much quality; nothing of it is kept."""


@dataclass(frozen=True)
class Speed:
    """The median time of one item, and the throughput over many, on the CPU of this machine."""

    milliseconds: float
    items_per_second: float


@dataclass(frozen=True)
class Difference:
    """The largest difference of a value of the embeddings, and the smallest cosine; NaN for scores of pairs."""

    items: int
    largest: float
    min_cosine: float


class Measured:
    """An encoder that is measured on the same items as the others."""

    def __init__(self, encoder: Encoder, settings: InferenceSettings, items: Sequence[Any]) -> None:
        self._embedder = LocalEmbedder(encoder, settings, torch.device("cpu"), "float32")
        self._options = encoding.Options(encoder, encoder.width, "", False, "float32", None, None)
        self._items = items

    def embed(self, items: Sequence[Any] | None = None) -> Floats:
        """Return the embeddings `(N, D)` of the items."""
        return encoding.encode(self._embedder, self._items if items is None else items, self._options)

    def speed(self) -> Speed:
        """Return how fast it is, after `embed` was called once."""
        one = [self._items[len(self._items) // 2]]
        for _ in range(_WARM_UP):
            self.embed(one)
        seconds: list[float] = []
        while len(seconds) < _REPEATS and sum(seconds) < _MOST_SECONDS:
            seconds.append(_seconds_of(self.embed, one))
        return Speed(1000 * float(np.median(seconds)), len(self._items) / _seconds_of(self.embed))


def _seconds_of(function: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare_embeddings(original_ND: Floats, exported_ND: Floats, precision: Precision, name: str) -> Difference:
    """Return how much the embeddings of an export differ.

    Raises:
        ExportFailed: they are not finite, or further from the original than the precision explains.
    """
    if not np.isfinite(exported_ND).all():
        what = f"the export to {name} failed: {np.isnan(exported_ND).any(1).sum()} embeddings are not finite."
        raise ExportFailed(what, "The numbers of this model are too large for the format: choose fp32 or bf16.")
    largest = float(np.abs(original_ND - exported_ND).max())
    difference = Difference(len(original_ND), largest, _min_cosine(original_ND, exported_ND))
    most = _TOLERANCE[precision] * float(np.abs(original_ND).max())
    if largest > most:
        what = (
            f"the export to {name} failed: its embeddings of {difference.items} items differ by up to {largest:.2g}"
            f" from those of the model, and at most {most:.2g} is expected in {precision}."
        )
        raise ExportFailed(what, "Nothing of it was kept. Choose another format, and report this as a bug.")
    return difference


def _min_cosine(a_ND: Floats, b_ND: Floats) -> float:
    if a_ND.shape[1] == 1:
        return float("nan")
    norms_N2 = np.stack([np.linalg.norm(a_ND, axis=1), np.linalg.norm(b_ND, axis=1)], axis=1)
    is_any_N = norms_N2.any(1)  # both are zero for a text without tokens
    cosine_N = (a_ND * b_ND).sum(1) / np.maximum(norms_N2.prod(1), np.finfo(np.float32).tiny)
    return float(cosine_N[is_any_N].min(initial=1.0))
