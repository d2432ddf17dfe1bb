"""How similar right and wrong pairs are, before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.analysis.sample import HeldOutSample
from finetune.data.arrays import Ints
from finetune.evaluation.truncation_quantization import normalize

BINS = 40

# Takes items and gives their embeddings.
EmbedItems = Callable[[Ints], NDArray[np.float32]]


def similarities(sample: HeldOutSample, before: EmbedItems, after: EmbedItems) -> dict[str, Any]:
    """Return how many pairs have which cosine, in common bins: the report's `similarities`."""
    found = {when: _cosines(sample, look) for when, look in (("before", before), ("after", after))}
    every = np.concatenate([values for both in found.values() for values in both.values()])
    # Steps of round numbers from the lowest to the highest, so that no bin is left empty for what cannot be.
    low, high = np.floor(every.min() * 20) / 20, np.ceil(every.max() * 20) / 20
    edges = np.linspace(low, max(high, low + 0.05), BINS + 1)

    def counts(values: NDArray[np.float64]) -> list[int]:
        return [int(count) for count in np.histogram(values, edges)[0]]

    return {
        "edges": [round(float(edge), 6) for edge in edges],
        **{when: {kind: counts(values) for kind, values in both.items()} for when, both in found.items()},
    }


def _cosines(sample: HeldOutSample, look: EmbedItems) -> dict[str, NDArray[np.float64]]:
    return {kind: cosines(pairs, look) for kind, pairs in (("positive", sample.right), ("negative", sample.wrong))}


def cosines(pairs_P2: Ints, look: EmbedItems) -> NDArray[np.float64]:
    """Return the cosine of each pair of items, (P,)."""
    left_PD, right_PD = (normalize(look(items)).astype(np.float64) for items in pairs_P2.T)
    cosine_P: NDArray[np.float64] = (left_PD * right_PD).sum(1).clip(-1, 1)
    return cosine_P
