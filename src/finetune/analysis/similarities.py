"""Cosine similarities of right and wrong pairs, before and after training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.analysis.sample import HeldOutSample
from finetune.data.arrays import Ints
from finetune.evaluation.truncation_quantization import normalize

BINS = 40

# Maps items (N,) to their embeddings (N, D).
EmbedItems = Callable[[Ints], NDArray[np.float32]]


def similarities(sample: HeldOutSample, before: EmbedItems, after: EmbedItems) -> dict[str, Any]:
    """Return the histograms of the cosines, with common bins: the `similarities` of report.json."""
    found = {"before": _cosines(sample, before), "after": _cosines(sample, after)}
    all_cosines = np.concatenate([values for both in found.values() for values in both.values()])
    # The bins cover only the range of the data, rounded to multiples of 0.05.
    low, high = np.floor(all_cosines.min() * 20) / 20, np.ceil(all_cosines.max() * 20) / 20
    edges = np.linspace(low, max(high, low + 0.05), BINS + 1)

    def counts(values: NDArray[np.float64]) -> list[int]:
        return [int(count) for count in np.histogram(values, edges)[0]]

    return {
        "edges": [round(float(edge), 6) for edge in edges],
        **{when: {kind: counts(values) for kind, values in both.items()} for when, both in found.items()},
    }


def _cosines(sample: HeldOutSample, embed: EmbedItems) -> dict[str, NDArray[np.float64]]:
    return {"positive": cosines(sample.right, embed), "negative": cosines(sample.wrong, embed)}


def cosines(pairs_P2: Ints, embed: EmbedItems) -> NDArray[np.float64]:
    """Return the cosine of each pair of items, (P,)."""
    left_PD = normalize(embed(pairs_P2[:, 0])).astype(np.float64)
    right_PD = normalize(embed(pairs_P2[:, 1])).astype(np.float64)
    cosine_P: NDArray[np.float64] = (left_PD * right_PD).sum(1).clip(-1, 1)
    return cosine_P
