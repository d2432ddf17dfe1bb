"""Items whose texts are equal but for case, white space, punctuation, accents and prompts: they are one for mining.

Shapes: N items, E pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints, distinct
from finetune.data.holdout.text_normalization import Bools, blocks, normalize, strip_prompts
from finetune.data.items import ABSENT, Items
from finetune.data.known_positives import KnownPositives


def equal_texts(items: Items, prompts: Sequence[str]) -> Ints:
    """Return for each item the smallest item with an equal text, `(N,)`; other items than texts are themselves.

    Texts without any letter or digit are compared as they are: they would all be equal.
    """
    first_N = np.arange(len(items))
    parts = []
    for _, block in blocks(items.texts):
        stripped = strip_prompts(block, prompts)
        normalized = normalize(stripped)
        parts.append(pa.compute.if_else(pa.compute.equal(normalized, ""), stripped, normalized))
    if not parts:
        return first_N
    encoded = pa.chunked_array(parts).dictionary_encode()
    code_T = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    _, first, inverse = np.unique(code_T, return_index=True, return_inverse=True)
    first_N[: len(code_T)] = first[inverse]
    return first_N


class RightPairs:
    """Which pairs of items are right as far as is known: known positives, with all items of equal texts.

    `equal_N` is that of `equal_texts`.
    """

    def __init__(self, known: KnownPositives, equal_N: Ints) -> None:
        self._equal_N = equal_N
        items = len(known.offsets) - 1
        left_E = np.repeat(np.arange(items), np.diff(known.offsets))
        self._keys = distinct(self._key(left_E, known.neighbors))
        self._group_N: Ints | None = None
        if known.group is not None:
            group_N = np.full(len(equal_N), ABSENT)
            group_N[:items] = known.group
            self._group_N = np.full(len(equal_N), ABSENT)
            np.maximum.at(self._group_N, equal_N, group_N)  # equal texts have the group of one of them

    def among(self, anchor: Ints, document: Ints) -> Bools:
        """Return whether each document is known to be right for its anchor; arrays of one shape, -1 for no document."""
        key = self._key(anchor, document)
        if len(self._keys):
            found = self._keys[np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)] == key
        else:
            found = np.zeros(key.shape, bool)
        if self._group_N is not None:
            group = self._group_N[self._equal_N[anchor]]
            found |= (group != ABSENT) & (group == self._group_N[self._equal_N[document]])
        among: Bools = found & (document != ABSENT)
        return among

    def is_equal(self, anchor: Ints, document: Ints) -> Bools:
        """Return whether the two items are the same or have equal texts."""
        equal: Bools = (self._equal_N[anchor] == self._equal_N[document]) & (document != ABSENT)
        return equal

    def _key(self, left: Ints, right: Ints) -> Ints:
        return self._equal_N[left] * len(self._equal_N) + self._equal_N[right]
