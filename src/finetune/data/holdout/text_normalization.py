"""Texts folded to what is left when case, white space, punctuation and accents do not count.

N texts, F folded texts.
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
BLOCK_BYTES = 4 << 20  # of text at a time: what is derived from it takes some twenty times as much memory
_TABLE_BITS = 20  # of the table of sums: a megabyte, which stays in the processor's cache

# Symbols (+ $ €, emoji) stay: "C" and "C++" are two things. Of marks only the accents of Latin, Greek and Cyrillic
# go: in Hindi or Thai, marks are vowels.
_DROPPED = r"[\p{P}\p{Z}\p{C}\x{0300}-\x{036F}]+"


def fold(texts: pa.Array) -> pa.Array:
    """Return each text in upper case, compatibility forms resolved (Unicode NFKD), accents and punctuation left out."""
    # Upper case, not lower: it joins the two small sigmas as well.
    return pc.replace_substring_regex(
        pc.utf8_upper(pc.utf8_normalize(texts, form="NFKD")), pattern=_DROPPED, replacement=""
    )


def without_fronts(texts: pa.Array, fronts: Sequence[str]) -> pa.Array:
    """Return the texts without the one of `fronts` (prompts, as `query: `) that they begin with."""
    known = sorted((front for front in fronts if front), key=len, reverse=True)
    if not known:
        return texts
    pattern = f"^(?:{'|'.join(map(re.escape, known))})"
    return pc.replace_substring_regex(texts, pattern=pattern, replacement="", max_replacements=1)


def blocks(texts: pa.Array) -> Iterator[tuple[int, pa.Array]]:
    """Yield consecutive slices of about `BLOCK_BYTES`, each with the place of its first text; nothing is copied."""
    start = 0
    for block in slices(texts, len(texts), BLOCK_BYTES):
        yield start, block
        start += len(block)


class EqualityPrefilter:
    """Tells fast which texts cannot be equal to any of some folded texts, so that only the others must be folded.

    The sum of a weight for each letter and digit is the same for texts that are equal when folded; it takes a tenth
    of the time that folding takes. Texts that are not ASCII are always held possible.
    """

    def __init__(self, folded_F: pa.Array) -> None:
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[_sums(folded_F) >> np.uint32(32 - _TABLE_BITS)] = True

    def __call__(self, texts: pa.Array) -> Bools:
        """Return which of the texts may be equal to one of the folded texts, (N,)."""
        possible = self._table[_sums(texts) >> np.uint32(32 - _TABLE_BITS)]
        ascii_only: Bools = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
        allowed: Bools = possible | ~ascii_only
        return allowed


def _weights() -> npt.NDArray[np.uint32]:
    weights = np.random.default_rng(0).integers(0, 1 << 32, 256, dtype=np.uint32)
    for code in range(128):
        letter = chr(code).upper()
        weights[code] = 0 if unicodedata.category(letter)[0] in "PZC" else weights[ord(letter)]
    return weights


_WEIGHTS = _weights()


def _sums(texts: pa.Array) -> npt.NDArray[np.uint32]:
    """Return the sum of the weights of each text's bytes, modulo 2^32, (N,)."""
    if not len(texts):
        return np.empty(0, np.uint32)
    ends, data = offsets_of(texts), texts.buffers()[2]
    size = int(ends[-1] - ends[0])
    letters = np.frombuffer(data, np.uint8, size, int(ends[0])) if size else np.empty(0, np.uint8)
    running = np.zeros(size + 1, np.uint32)
    np.cumsum(_WEIGHTS[letters], dtype=np.uint32, out=running[1:])
    place = ends - ends[0]
    sums: npt.NDArray[np.uint32] = running[place[1:]] - running[place[:-1]]
    return sums
