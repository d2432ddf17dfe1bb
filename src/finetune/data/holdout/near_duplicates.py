"""Near-duplicates: texts that share most of their character trigrams with one of some queries.

All pairs above the threshold are found (the search is exact) without comparing every text with every query: if a text
shares the fraction t of a query's n trigrams, any n - ceil(t n) + m of them contain m shared ones, so only texts that
contain m of that many of its rarest are compared (prefix filtering; Bayardo, Ma and Srikant 2007, https://doi.org/10.1145/1242572.1242591).

N texts, Q queries, S trigrams of texts, U distinct trigrams of all queries, P pairs of a text and a query.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.holdout.text_normalization import Bools, blocks, normalize

THRESHOLD = 0.8  # Jaccard similarity of the trigrams of two texts
_SHARED = 3  # rare trigrams that a text must share with a query to be compared: fewer give too many candidates
_SAMPLE = (50_000, 16 << 20)  # texts, and bytes of text, from which the frequencies of trigrams are estimated
_AT_ONCE = 4 << 20  # comparisons of single trigrams in memory at once
_TABLE_BITS = 20


class NearDuplicates(NamedTuple):
    """Texts with a near-duplicate among the queries: their indices, the closest query of each, their similarity."""

    text: Ints
    query: Ints
    share: npt.NDArray[np.float64]


def find_near_duplicates(
    texts: pa.Array, wanted_N: Bools, queries: pa.Array, threshold: float = THRESHOLD
) -> NearDuplicates:
    """Return which of the `wanted_N` texts share at least `threshold` of their trigrams with a query.

    Normalized texts are compared (`normalize`); the trigrams of a text are a set, and begin at each of its characters.
    """
    index = _Queries(normalize(queries), threshold, _sample(texts, wanted_N))
    found = []
    for first, block in blocks(texts):
        places = np.flatnonzero(wanted_N[first : first + len(block)])
        if len(places):
            wanted = block
            if len(places) < len(block):
                wanted = block.take(pa.array(places))
            text, query, share = index.find(normalize(wanted))
            found.append(NearDuplicates(places[text] + first, query, share))
    if not found:
        return NearDuplicates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return NearDuplicates(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _sample(texts: pa.Array, wanted_N: Bools) -> pa.Array:
    places = np.flatnonzero(wanted_N)
    most = min(_SAMPLE[0], 1 + _SAMPLE[1] * len(texts) // max(1, texts.nbytes))
    return normalize(texts.take(pa.array(places[:: 1 + len(places) // most])))


def trigrams(normalized: pa.Array) -> tuple[Ints, Ints]:
    """Return the concatenated trigrams of texts, (S,), and the index of the text of each, (S,)."""
    # Two NULs after each text, which contains none itself: so every character begins a trigram, also the last.
    padded = pc.binary_join_element_wise(normalized, pa.scalar("\0\0", normalized.type), pa.scalar("", normalized.type))
    data = padded.buffers()[2]
    if not data:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    code = np.frombuffer(data.to_pybytes().decode().encode("utf-32-le"), np.uint32).astype(np.int64)
    if not len(code):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # A code point has 21 bits, so three of them are one number.
    key = (code[:-2] | (code[1:-1] << 21) | (code[2:] << 42))[code[:-2] != 0]
    lengths = pc.utf8_length(normalized).to_numpy(zero_copy_only=False)
    return key, np.repeat(np.arange(len(normalized)), lengths)


def distinct_trigrams(key: Ints, owner: Ints) -> tuple[Ints, Ints]:
    """Return each trigram of each text once, ascending, and the index of its text, both (S,), ascending by text."""
    order = np.lexsort((key, owner))
    key, owner = key[order], owner[order]
    first = np.ones(len(key), bool)
    first[1:] = (key[1:] != key[:-1]) | (owner[1:] != owner[:-1])
    return key[first], owner[first]


class _Queries:
    """An index of the queries by their rarest trigrams."""

    def __init__(self, normalized: pa.Array, threshold: float, sample: pa.Array) -> None:
        self.threshold = threshold
        key, owner = distinct_trigrams(*trigrams(normalized))
        self.size_Q = np.bincount(owner, minlength=len(normalized))
        self.trigram_U, number = np.unique(key, return_inverse=True)
        self.least_Q = np.ceil(threshold * self.size_Q - 1e-9).astype(np.int64)  # shared with a near-duplicate
        self.shared_Q = np.minimum(_SHARED, self.least_Q)
        self.pairs = np.sort(owner * len(self.trigram_U) + number)  # (query, trigram) as one number
        rare = self._rarest(owner, number, trigrams(sample)[0])
        order = np.argsort(number[rare], kind="stable")
        self.query_of_rare = owner[rare][order]
        number = number[rare][order]
        self.rare, first = np.unique(number, return_index=True)
        self.starts = np.append(first, len(number))
        self.rare = self.trigram_U[self.rare]
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[_hashed(self.rare)] = True

    def _rarest(self, owner: Ints, number: Ints, seen: Ints) -> Ints:
        """Return as many of the rarest trigrams of each query that a near-duplicate must contain `shared_Q` of them."""
        place = np.searchsorted(self.trigram_U, seen)
        inside = place < len(self.trigram_U)
        inside[inside] = self.trigram_U[place[inside]] == seen[inside]
        often_U = np.bincount(place[inside], minlength=len(self.trigram_U))
        order = np.lexsort((often_U[number], owner))
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(self.size_Q) - self.size_Q, self.size_Q)
        chosen: Ints = order[rank < (self.size_Q - self.least_Q + self.shared_Q)[owner[order]]]
        return chosen

    def find(self, normalized: pa.Array) -> NearDuplicates:
        """Return the closest query of each text that has one."""
        key, owner = trigrams(normalized)
        place, of = self._rare_among(key, owner)
        counts = np.diff(self.starts)[place]
        if counts.sum() > _AT_ONCE and len(normalized) > 1:
            return self._in_halves(normalized)
        text = np.repeat(of, counts)
        query = self.query_of_rare[flat_ranges(self.starts[:-1][place], counts)]
        # Repeated trigrams only overestimate the length of a text, so one that is too short can be excluded already.
        long_enough = np.bincount(owner, minlength=len(normalized))[text] >= self.threshold * self.size_Q[query] - 1e-9
        text, query = self._often_enough(text[long_enough], query[long_enough])
        return self._compared(text, query, key, owner)

    def _often_enough(self, text: Ints, query: Ints) -> tuple[Ints, Ints]:
        """Return the pairs that occur as often as a near-duplicate shares rare trigrams, each once."""
        # The texts are in ascending order already, which makes a stable sort fast.
        pair = np.sort(text * len(self.size_Q) + query, kind="stable")
        first = np.flatnonzero(np.append(True, pair[1:] != pair[:-1])[: len(pair)])
        times = np.diff(np.append(first, len(pair)))
        text, query = np.divmod(pair[first], max(1, len(self.size_Q)))
        often = times >= self.shared_Q[query]
        return text[often], query[often]

    def _in_halves(self, normalized: pa.Array) -> NearDuplicates:
        middle = len(normalized) // 2
        left, right = self.find(normalized.slice(0, middle)), self.find(normalized.slice(middle))
        right = right._replace(text=right.text + middle)
        return NearDuplicates(*(np.concatenate(parts) for parts in zip(left, right, strict=True)))

    def _rare_among(self, key: Ints, owner: Ints) -> tuple[Ints, Ints]:
        """Return the indices in `rare` of the trigrams that are found there, and the text of each."""
        possible = np.flatnonzero(self._table[_hashed(key)])
        key, owner = key[possible], owner[possible]
        place, found = _search(self.rare, key)
        return place[found], owner[found]

    def _compared(self, text_P: Ints, query_P: Ints, key: Ints, owner: Ints) -> NearDuplicates:
        """Return, of these pairs, for each text the one with the most in common, if that is enough."""
        texts, text_P = np.unique(text_P, return_inverse=True)
        is_candidate = np.zeros(int(owner.max(initial=-1)) + 1, bool)
        is_candidate[texts] = True
        of_candidates = is_candidate[owner]
        key, owner = distinct_trigrams(key[of_candidates], owner[of_candidates])
        size = np.bincount(np.searchsorted(texts, owner), minlength=len(texts))[text_P]
        fits = self.threshold * size <= self.size_Q[query_P] + 1e-9
        fits &= self.threshold * self.size_Q[query_P] <= size + 1e-9
        text_P, query_P, size = text_P[fits], query_P[fits], size[fits]
        both = self._in_common(text_P, query_P, key, np.searchsorted(texts, owner))
        share = both / (size + self.size_Q[query_P] - both)
        order = np.lexsort((-share, text_P))
        order = order[share[order] >= self.threshold - 1e-9]
        _, best = np.unique(text_P[order], return_index=True)
        best = order[best]
        return NearDuplicates(texts[text_P[best]], query_P[best], share[best])

    def _in_common(self, text_P: Ints, query_P: Ints, key: Ints, owner: Ints) -> Ints:
        """Return how many trigrams the text and the query of each pair share, (P,)."""
        number, found = _search(self.trigram_U, key)
        number, owner = number[found], owner[found]
        ends = np.searchsorted(owner, np.arange(int(text_P.max(initial=-1)) + 2))
        counts_P = np.diff(ends)[text_P]
        both = np.zeros(len(text_P), np.int64)
        cuts = np.searchsorted(np.cumsum(counts_P), np.arange(0, int(counts_P.sum()) + 1, _AT_ONCE))
        for low, high in zip(cuts, [*cuts[1:], len(text_P)], strict=True):
            counts = counts_P[low:high]
            of = np.repeat(np.arange(low, high), counts)
            wanted = query_P[of] * len(self.trigram_U) + number[flat_ranges(ends[text_P[low:high]], counts)]
            place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
            both += np.bincount(of[self.pairs[place] == wanted], minlength=len(text_P))
        return both


def _search(ordered: Ints, key: Ints) -> tuple[Ints, Bools]:
    """Return an index in `ordered` for each key, and whether the key is found there."""
    if not len(key):
        return np.empty(0, np.int64), np.empty(0, bool)
    place = np.minimum(np.searchsorted(ordered, key), max(0, len(ordered) - 1))
    return place, ordered[place] == key


def _hashed(key: Ints) -> npt.NDArray[np.uint64]:
    # Multiplicative hashing: the upper bits of the product depend on all of the key.
    return (key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _TABLE_BITS)
