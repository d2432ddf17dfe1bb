"""Pairs of texts that hardly differ: by their character trigrams, as in `finetune.data.holdout.near_duplicates`.

A pair above the threshold has few trigrams that are in one of the two texts only. So their histograms, of trigrams
hashed to a few numbers, differ little, which excludes almost all other pairs before trigrams are compared.

Shapes: P pairs, U distinct items of them, S trigrams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints, distinct, flat_ranges
from finetune.data.holdout.near_duplicates import THRESHOLD, distinct_trigrams, trigrams
from finetune.data.holdout.text_normalization import Bools, normalize, strip_prompts

_BINS = 256
_PAIRS_AT_ONCE = 1 << 15


class NearTexts:
    """Compares texts by their trigrams; `prompts` at the beginning of a text do not count."""

    def __init__(self, texts: pa.Array, prompts: Sequence[str], threshold: float = THRESHOLD) -> None:
        self._texts, self._prompts, self._threshold = texts, prompts, threshold

    def among(self, left_P: Ints, right_P: Ints) -> Bools:
        """Return which pairs of items have at least the threshold of their trigrams in common (Jaccard), `(P,)`."""
        near_P = np.zeros(len(left_P), bool)
        are_texts = np.flatnonzero((left_P < len(self._texts)) & (right_P < len(self._texts)))
        for start in range(0, len(are_texts), _PAIRS_AT_ONCE):
            part = are_texts[start : start + _PAIRS_AT_ONCE]
            near_P[part] = self._compared(left_P[part], right_P[part])
        return near_P

    def _compared(self, left_P: Ints, right_P: Ints) -> Bools:
        items_U = distinct(np.concatenate([left_P, right_P]))
        left_P, right_P = np.searchsorted(items_U, left_P), np.searchsorted(items_U, right_P)
        texts = normalize(strip_prompts(self._texts.take(pa.array(items_U)), self._prompts))
        key_S, owner_S = distinct_trigrams(*trigrams(texts))
        size_U = np.bincount(owner_S, minlength=len(items_U))
        possible = np.flatnonzero(self._may_be_near(left_P, right_P, key_S, owner_S, size_U))
        left_p, right_p = left_P[possible], right_P[possible]
        both_p = _in_common(left_p, right_p, key_S, owner_S, size_U)
        either_p = size_U[left_p] + size_U[right_p] - both_p
        near_P = np.zeros(len(left_P), bool)
        near_P[possible] = (both_p >= self._threshold * either_p - 1e-9) & (either_p > 0)
        return near_P

    def _may_be_near(self, left_P: Ints, right_P: Ints, key_S: Ints, owner_S: Ints, size_U: Ints) -> Bools:
        """Return which pairs are not excluded by their histograms."""
        bin_S = (key_S.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(56)
        flat = np.bincount(owner_S * _BINS + bin_S.astype(np.int64), minlength=len(size_U) * _BINS)
        histogram_UH = flat.reshape(len(size_U), _BINS).astype(np.int32)
        # With t |A or B| trigrams in common, (1 - t) / (1 + t) of |A| + |B| are in one of both only.
        most_P = (1 - self._threshold) / (1 + self._threshold) * (size_U[left_P] + size_U[right_P]) + 1e-9
        # The sizes alone exclude most pairs, without reading the histograms.
        possible_P: Bools = np.abs(size_U[left_P] - size_U[right_P]) <= most_P
        rest = np.flatnonzero(possible_P)
        apart = np.abs(histogram_UH[left_P[rest]] - histogram_UH[right_P[rest]]).sum(axis=1)
        possible_P[rest] = apart <= most_P[rest]
        return possible_P


def _in_common(left_P: Ints, right_P: Ints, key_S: Ints, owner_S: Ints, size_U: Ints) -> Ints:
    """Return how many trigrams the two texts of each pair share, `(P,)`."""
    _, number_S = np.unique(key_S, return_inverse=True)
    width = int(number_S.max(initial=0)) + 1
    sorted_S = np.sort(owner_S * width + number_S)
    starts_U = np.cumsum(size_U) - size_U
    of = np.repeat(np.arange(len(left_P)), size_U[left_P])
    wanted = right_P[of] * width + number_S[flat_ranges(starts_U[left_P], size_U[left_P])]
    place = np.minimum(np.searchsorted(sorted_S, wanted), max(0, len(sorted_S) - 1))
    found = sorted_S[place] == wanted if len(sorted_S) else np.zeros(len(wanted), bool)
    return np.bincount(of[found], minlength=len(left_P))
