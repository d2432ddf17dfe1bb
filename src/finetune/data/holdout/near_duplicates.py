"""Near-duplicates: texts that share most of their character trigrams with one of some queries.

All pairs above the threshold are found, none by chance, without comparing every text with every query: of a query with
n trigrams that shares the fraction t of them, any n - ceil(t n) + m contain m shared ones, so only texts that hold m of
so many of its rarest are compared (prefix filtering; Bayardo, Ma and Srikant 2007, https://doi.org/10.1145/1242572.1242591).

N texts, Q queries, S trigrams of texts, U distinct trigrams of all queries, P pairs of a text and a query.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.holdout.text_normalization import Bools, blocks, fold

THRESHOLD = 0.8  # of the trigrams of two texts together, the share that both have (Jaccard)
_SHARED = 3  # rare trigrams that a text must share with a query to be compared: with fewer, chance sends too many
_SAMPLE = (50_000, 16 << 20)  # texts, and bytes of text, that tell which trigrams are rare
_AT_ONCE = 4 << 20  # comparisons of single trigrams held in memory
_TABLE_BITS = 20


class Near(NamedTuple):
    """Texts with a near-duplicate among the queries: their places, the closest query of each, the share in common."""

    text: Ints
    query: Ints
    share: npt.NDArray[np.float64]


def find_near(texts: pa.Array, wanted_N: Bools, queries: pa.Array, threshold: float = THRESHOLD) -> Near:
    """Return which of the `wanted_N` texts share at least `threshold` of their trigrams with a query.

    Compared are the folded texts (`fold`); the trigrams of a text are a set, and begin at each of its characters.
    """
    index = _Queries(fold(queries), threshold, _sample(texts, wanted_N))
    found = []
    for first, block in blocks(texts):
        places = np.flatnonzero(wanted_N[first : first + len(block)])
        if len(places):
            folded = fold(block if len(places) == len(block) else block.take(pa.array(places)))
            text, query, share = index.find(folded)
            found.append(Near(places[text] + first, query, share))
    if not found:
        return Near(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Near(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _sample(texts: pa.Array, wanted_N: Bools) -> pa.Array:
    places = np.flatnonzero(wanted_N)
    most = min(_SAMPLE[0], 1 + _SAMPLE[1] * len(texts) // max(1, texts.nbytes))
    return fold(texts.take(pa.array(places[:: 1 + len(places) // most])))


def _trigrams(folded: pa.Array) -> tuple[Ints, Ints]:
    """Return the trigrams of texts one after the other, (S,), and the place of the text that each is of, (S,)."""
    # Two NULs behind each text, in which none is left: so every character begins a trigram, also the last.
    padded = pc.binary_join_element_wise(folded, pa.scalar("\0\0", folded.type), pa.scalar("", folded.type))
    data = padded.buffers()[2]
    code = np.frombuffer((data.to_pybytes() if data else b"").decode().encode("utf-32-le"), np.uint32).astype(np.int64)
    if not len(code):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # A code point has 21 bits, so three of them are one number.
    key = (code[:-2] | (code[1:-1] << 21) | (code[2:] << 42))[code[:-2] != 0]
    lengths = pc.utf8_length(folded).to_numpy(zero_copy_only=False)
    return key, np.repeat(np.arange(len(folded)), lengths)


def _distinct_trigrams(key: Ints, owner: Ints) -> tuple[Ints, Ints]:
    order = np.lexsort((key, owner))
    key, owner = key[order], owner[order]
    first = np.ones(len(key), bool)
    first[1:] = (key[1:] != key[:-1]) | (owner[1:] != owner[:-1])
    return key[first], owner[first]


class _Queries:
    """The trigrams of the queries, and which queries a rare one of them points to."""

    def __init__(self, folded: pa.Array, threshold: float, sample: pa.Array) -> None:
        self.threshold = threshold
        key, owner = _distinct_trigrams(*_trigrams(folded))
        self.size_Q = np.bincount(owner, minlength=len(folded))
        self.known_U, number = np.unique(key, return_inverse=True)
        self.least_Q = np.ceil(threshold * self.size_Q - 1e-9).astype(np.int64)  # that a near-duplicate has of them
        self.shared_Q = np.minimum(_SHARED, self.least_Q)
        self.held = np.sort(owner * len(self.known_U) + number)  # which query has which trigram
        rare = self._rarest(owner, number, _trigrams(sample)[0])
        order = np.argsort(number[rare], kind="stable")
        self.points_to = owner[rare][order]
        number = number[rare][order]
        self.rare, first = np.unique(number, return_index=True)
        self.starts = np.append(first, len(number))
        self.rare = self.known_U[self.rare]
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[_hashed(self.rare)] = True

    def _rarest(self, owner: Ints, number: Ints, seen: Ints) -> Ints:
        """Return so many of the rarest trigrams of each query that a near-duplicate must have one of them."""
        place = np.searchsorted(self.known_U, seen)
        inside = place < len(self.known_U)
        inside[inside] = self.known_U[place[inside]] == seen[inside]
        often_U = np.bincount(place[inside], minlength=len(self.known_U))
        order = np.lexsort((often_U[number], owner))
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(self.size_Q) - self.size_Q, self.size_Q)
        chosen: Ints = order[rank < (self.size_Q - self.least_Q + self.shared_Q)[owner[order]]]
        return chosen

    def find(self, folded: pa.Array) -> Near:
        """Return the closest query of each text that has one."""
        key, owner = _trigrams(folded)
        place, of = self._rare_among(key, owner)
        counts = np.diff(self.starts)[place]
        if counts.sum() > _AT_ONCE and len(folded) > 1:
            return self._in_halves(folded)
        text = np.repeat(of, counts)
        query = self.points_to[flat_ranges(self.starts[:-1][place], counts)]
        # Repeated trigrams only make a text longer than it counts, so one that is too short can be left out already.
        long_enough = np.bincount(owner, minlength=len(folded))[text] >= self.threshold * self.size_Q[query] - 1e-9
        text, query = self._often_enough(text[long_enough], query[long_enough])
        return self._compared(text, query, key, owner)

    def _often_enough(self, text: Ints, query: Ints) -> tuple[Ints, Ints]:
        """Return the pairs that occur as often as a near-duplicate shares rare trigrams, each once."""
        # The texts ascend already, which a stable sort makes use of.
        pair = np.sort(text * len(self.size_Q) + query, kind="stable")
        first = np.flatnonzero(np.append(True, pair[1:] != pair[:-1])[: len(pair)])
        times = np.diff(np.append(first, len(pair)))
        text, query = np.divmod(pair[first], max(1, len(self.size_Q)))
        often = times >= self.shared_Q[query]
        return text[often], query[often]

    def _in_halves(self, folded: pa.Array) -> Near:
        middle = len(folded) // 2
        left, right = self.find(folded.slice(0, middle)), self.find(folded.slice(middle))
        return Near(
            *(np.concatenate(parts) for parts in zip(left, right._replace(text=right.text + middle), strict=True))
        )

    def _rare_among(self, key: Ints, owner: Ints) -> tuple[Ints, Ints]:
        """Return the places in `rare` of those trigrams that are there, and the text that each is of."""
        possible = np.flatnonzero(self._table[_hashed(key)])
        key, owner = key[possible], owner[possible]
        place = np.minimum(np.searchsorted(self.rare, key), max(0, len(self.rare) - 1))
        real = self.rare[place] == key if len(key) else np.empty(0, bool)
        return place[real], owner[real]

    def _compared(self, text_P: Ints, query_P: Ints, key: Ints, owner: Ints) -> Near:
        """Return, of these pairs, for each text the one with the most in common, if that is enough."""
        texts, text_P = np.unique(text_P, return_inverse=True)
        candidate = np.zeros(int(owner.max(initial=-1)) + 1, bool)
        candidate[texts] = True
        mine = candidate[owner]
        key, owner = _distinct_trigrams(key[mine], owner[mine])
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
        return Near(texts[text_P[best]], query_P[best], share[best])

    def _in_common(self, text_P: Ints, query_P: Ints, key: Ints, owner: Ints) -> Ints:
        """Return how many trigrams the text and the query of each pair share, (P,)."""
        number = np.minimum(np.searchsorted(self.known_U, key), max(0, len(self.known_U) - 1))
        known = self.known_U[number] == key if len(key) else np.empty(0, bool)
        number, owner = number[known], owner[known]
        ends = np.searchsorted(owner, np.arange(int(text_P.max(initial=-1)) + 2))
        counts_P = np.diff(ends)[text_P]
        both = np.zeros(len(text_P), np.int64)
        cuts = np.searchsorted(np.cumsum(counts_P), np.arange(0, int(counts_P.sum()) + 1, _AT_ONCE))
        for low, high in zip(cuts, [*cuts[1:], len(text_P)], strict=True):
            counts = counts_P[low:high]
            of = np.repeat(np.arange(low, high), counts)
            wanted = query_P[of] * len(self.known_U) + number[flat_ranges(ends[text_P[low:high]], counts)]
            place = np.minimum(np.searchsorted(self.held, wanted), len(self.held) - 1)
            both += np.bincount(of[self.held[place] == wanted], minlength=len(text_P))
        return both


def _hashed(key: Ints) -> npt.NDArray[np.uint64]:
    # Multiplicative hashing: the upper bits of the product depend on all of the key.
    return (key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _TABLE_BITS)
