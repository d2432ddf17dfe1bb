"""Texts normalized by case, white space, punctuation and accents.

N texts, F normalized texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.tokens.tokenize import offsets_of, slices

Bools = npt.NDArray[np.bool_]
BLOCK_BYTES = 4 << 20  # of text at a time: the arrays derived from it take about twenty times as much memory
_TABLE_BITS = 20  # of the table of sums: 1 MB, which fits in the CPU cache

# Symbols (+ $ €, emoji) are kept: "C" and "C++" differ. Of combining marks only Latin, Greek and Cyrillic accents
# are removed: in Hindi or Thai, marks are vowels.
_DROPPED = r"[\p{P}\p{Z}\p{C}\x{0300}-\x{036F}]+"


def normalize(texts: pa.Array) -> pa.Array:
    """Return each text in upper case, compatibility forms resolved (Unicode NFKD), accents and punctuation left out."""
    # Upper case, not lower: it also makes the two lower-case sigmas equal.
    return pc.replace_substring_regex(
        pc.utf8_upper(pc.utf8_normalize(texts, form="NFKD")), pattern=_DROPPED, replacement=""
    )


def strip_prompts(texts: pa.Array, prompts: Sequence[str]) -> pa.Array:
    """Return the texts without the prompt (as `query: `) that they begin with."""
    longest_first = sorted(filter(None, prompts), key=len, reverse=True)
    if not longest_first:
        return texts
    pattern = f"^(?:{'|'.join(map(re.escape, longest_first))})"
    return pc.replace_substring_regex(texts, pattern=pattern, replacement="", max_replacements=1)


def blocks(texts: pa.Array) -> Iterator[tuple[int, pa.Array]]:
    """Yield consecutive slices of about `BLOCK_BYTES`, each with the index of its first text; nothing is copied."""
    start = 0
    for block in slices(texts, len(texts), BLOCK_BYTES):
        yield start, block
        start += len(block)


class EqualityPrefilter:
    """Excludes texts that cannot be equal to any of some normalized texts, so that only the rest must be normalized.

    The sum of a weight for each letter and digit is the same for texts that are equal after normalization; it takes a
    tenth of the time of normalizing. Texts that are not ASCII are never excluded.
    """

    def __init__(self, normalized_F: pa.Array) -> None:
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[_sums(normalized_F) >> np.uint32(32 - _TABLE_BITS)] = True

    def __call__(self, texts: pa.Array) -> Bools:
        """Return which of the texts may be equal to one of the normalized texts, (N,)."""
        possible = self._table[_sums(texts) >> np.uint32(32 - _TABLE_BITS)]
        ascii_only: Bools = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
        allowed: Bools = possible | ~ascii_only
        return allowed


def _weights() -> npt.NDArray[np.uint32]:
    weights = np.random.default_rng(0).integers(0, 1 << 32, 256, dtype=np.uint32)
    for code in range(128):
        letter = chr(code).upper()
        if unicodedata.category(letter)[0] in "PZC":
            weights[code] = 0
        else:
            weights[code] = weights[ord(letter)]
    return weights


_WEIGHTS = _weights()


def _sums(texts: pa.Array) -> npt.NDArray[np.uint32]:
    """Return the sum of the weights of each text's bytes, modulo 2^32, (N,)."""
    if not len(texts):
        return np.empty(0, np.uint32)
    ends, data = offsets_of(texts), texts.buffers()[2]
    size = int(ends[-1] - ends[0])
    letters = np.empty(0, np.uint8)
    if size:
        letters = np.frombuffer(data, np.uint8, size, int(ends[0]))
    running = np.zeros(size + 1, np.uint32)
    np.cumsum(_WEIGHTS[letters], dtype=np.uint32, out=running[1:])
    offset = ends - ends[0]
    sums: npt.NDArray[np.uint32] = running[offset[1:]] - running[offset[:-1]]
    return sums
