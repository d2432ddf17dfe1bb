"""Candidates by words: BM25, exact, without scoring every document that has a common word.

The terms of an anchor are added up from the rarest to the most frequent one. Once the terms that are left cannot
bring another document among the best, they are looked up for the documents that still can be (MaxScore, Turtle and
Flood 1995, https://doi.org/10.1016/0306-4573(95)00020-H).

Shapes: Q anchors, M documents, P pairs, T occurrences of terms, V terms, K hits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT, Items
from finetune.mining.bare_texts import bare_texts
from finetune.mining.retriever import Floats, Hits

_K1, _B = 1.5, 0.75
_TEXTS_AT_ONCE = 8192
_WORDS = re.compile(r"\w+")
# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, bopomofo, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_RUNS = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
Doubles = NDArray[np.float64]


def terms_of(text: str) -> list[str]:
    """Return the terms of a text in any language: its words in lower case.

    In scripts without spaces between words these are pairs of characters that follow each other.
    """
    words: list[str] = _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    if _HAS_UNSPACED.search(text) is None:
        return words
    return [term for word in words for run in _RUNS.findall(word) for term in _pairs_or_word(run)]


def _pairs_or_word(run: str) -> list[str]:
    if len(run) < 2 or _HAS_UNSPACED.match(run) is None:
        return [run]
    return [first + second for first, second in pairwise(run)]


class BM25:
    """Ranks documents by Lucene's BM25 with k1=1.5 and b=0.75, without stemming or stop words; texts only.

    `prompts` at the beginning of a text do not count. The index of the documents is kept for the next call with the
    same ones: about 8 bytes for each distinct term of a document.

    Source: Robertson and Zaragoza 2009, https://doi.org/10.1561/1500000019; variants as in Lù 2024,
    https://arxiv.org/abs/2407.03618.
    """

    def __init__(self, items: Items, prompts: Sequence[str] = ()) -> None:
        self.name = "bm25"
        self._items, self._prompts = items, prompts
        self._index: Index | None = None

    def search(self, anchors_Q: Ints, documents_M: Ints, k: int) -> Hits:
        """Return the `k` documents with the highest scores above 0 for each anchor."""
        index = self._index_of(documents_M)
        scores = np.full((len(anchors_Q), k), -np.inf, np.float32)
        found = np.full((len(anchors_Q), k), ABSENT)
        row = 0
        for texts in self._blocks(anchors_Q):
            for text in texts:
                document_k, score_k = index.best(terms_of(text), k)
                scores[row, : len(score_k)], found[row, : len(score_k)] = score_k, documents_M[document_k]
                row += 1
        return Hits(scores, found)

    def prepare(self, anchors_Q: Ints, documents_M: Ints) -> None:
        """Build the index of the documents, and keep it for the next calls with the same ones."""
        self._index_of(documents_M)

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return the score of each pair, by the word frequencies of the documents of the last search.

        Raises:
            ValueError: there was no search.
        """
        if self._index is None:
            raise ValueError("BM25 has no documents before a search")
        score_P = np.zeros(len(anchors_P), np.float32)
        order = np.argsort(anchors_P, kind="stable")
        anchors, starts = np.unique(anchors_P[order], return_index=True)
        pairs = np.split(order, starts[1:])
        texts = (text for block in self._blocks(anchors) for text in block)
        for text, part in zip(texts, pairs, strict=True):
            documents = [terms_of(document) for block in self._blocks(documents_P[part]) for document in block]
            score_P[part] = self._index.scores(terms_of(text), documents)
        return score_P

    def _index_of(self, documents_M: Ints) -> Index:
        if self._index is None or not np.array_equal(self._index.documents, documents_M):
            self._index = Index(documents_M, (map(terms_of, texts) for texts in self._blocks(documents_M)))
        return self._index

    def _blocks(self, items: Ints) -> Iterable[list[str]]:
        for start in range(0, len(items), _TEXTS_AT_ONCE):
            yield bare_texts(self._items, items[start : start + _TEXTS_AT_ONCE], self._prompts).to_pylist()


class Index:
    """The terms of M documents: for each term the documents that have it, ascending, and its score in each.

    `blocks` are the terms of consecutive documents.
    """

    def __init__(self, documents: Ints, blocks: Iterable[Iterable[list[str]]]) -> None:
        self.documents = documents
        self._terms: dict[str, int] = {}
        term_T, document_T, count_T, length_M = self._counted(blocks)
        order = np.argsort(term_T, kind="stable")  # documents stay in ascending order
        self._document_T, term_T = document_T[order], term_T[order]
        self._starts_V = np.searchsorted(term_T, np.arange(len(self._terms) + 1))
        self._mean_length = max(1.0, float(length_M.mean()) if len(length_M) else 0.0)
        frequency_V = np.diff(self._starts_V)
        self._idf_V = np.log1p((len(length_M) - frequency_V + 0.5) / (frequency_V + 0.5))
        part_T = self._saturated(count_T[order], length_M[self._document_T])
        self._score_T = (part_T * self._idf_V[term_T]).astype(np.float32)
        self._highest_V = np.zeros(len(self._terms))
        if len(self._terms):
            self._highest_V = np.maximum.reduceat(self._score_T, self._starts_V[:-1]).astype(np.float64)
        self._is_candidate_M = np.zeros(len(length_M), bool)
        self._total_M = np.zeros(len(length_M))

    def best(self, terms: Sequence[str], k: int) -> tuple[Ints, Doubles]:
        """Return up to `k` documents, by their places, with the highest scores for some terms, and the scores."""
        term_V, weight_V = self._rarest_first(terms)
        bound_V = weight_V * self._highest_V[term_V]
        rest_V = np.cumsum(bound_V[::-1])[::-1]  # of a term and all after it
        touched: list[Ints] = []
        documents, done = np.empty(0, np.int64), len(term_V)
        cut = -np.inf
        for i, (term, weight) in enumerate(zip(term_V, weight_V, strict=True)):
            if len(documents) >= k and i:
                cut = -np.partition(-self._total_M[documents], k - 1)[k - 1]
                if rest_V[i] * (1 + 1e-9) < cut:
                    done = i
                    break
            posted = self._posted(term)
            new = self._document_T[posted][~self._is_candidate_M[self._document_T[posted]]]
            self._is_candidate_M[new] = True
            self._total_M[self._document_T[posted]] += weight * self._score_T[posted]
            touched.append(new)
            documents = np.concatenate([documents, new])
        score = self._total_M[documents]
        self._is_candidate_M[documents] = False
        self._total_M[documents] = 0
        if done < len(term_V):
            possible = score + rest_V[done] * (1 + 1e-9) >= cut
            documents, score = documents[possible], score[possible]
            for term, weight in zip(term_V[done:], weight_V[done:], strict=True):
                score += weight * self._looked_up(term, documents)
        return _first(documents, score, k)

    def scores(self, terms: Sequence[str], documents: Sequence[Sequence[str]]) -> Doubles:
        """Return the score of documents, given by their terms, which need not be in the index."""
        term_V, weight_V = self._rarest_first(terms)
        place = {int(term): i for i, term in enumerate(term_V)}
        score_M = np.zeros(len(documents))
        for i, document in enumerate(documents):
            count_V = np.zeros(len(term_V))
            for term in document:
                at = place.get(self._terms.get(term, ABSENT))
                if at is not None:
                    count_V[at] += 1
            part_V = self._saturated(count_V, np.full(len(term_V), len(document)))
            exact = (part_V * self._idf_V[term_V]).astype(np.float32)
            score = 0.0
            for weight, each in zip(weight_V, exact, strict=True):  # in the order of `best`
                score += weight * each
            score_M[i] = score
        return score_M

    def _counted(self, blocks: Iterable[Iterable[list[str]]]) -> tuple[Ints, Ints, Ints, Ints]:
        """Return term, document and count of each distinct term of each document `(T,)`, and the lengths `(M,)`."""
        terms, documents, counts, lengths = [], [], [], []
        first = 0
        number = self._terms
        for block in blocks:
            ids: list[int] = []
            length = []
            for words in block:
                ids += [number.setdefault(word, len(number)) for word in words]
                length.append(len(words))
            key = np.repeat(np.arange(len(length)), length) << 32 | np.array(ids, np.int64)
            distinct_key, count = np.unique(key, return_counts=True)
            terms.append((distinct_key & 0xFFFFFFFF).astype(np.int32))
            documents.append(((distinct_key >> 32) + first).astype(np.int32))
            counts.append(count.astype(np.int32))
            lengths.append(np.array(length, np.int64))
            first += len(length)
        empty = np.empty(0, np.int32)
        return (
            np.concatenate([empty, *terms]),
            np.concatenate([empty, *documents]),
            np.concatenate([empty, *counts]),
            np.concatenate([np.empty(0, np.int64), *lengths]),
        )

    def _saturated(self, count_T: Doubles | Ints, length_T: Ints) -> Doubles:
        """Return the part of a score that depends on how often a term occurs in a document."""
        saturated: Doubles = count_T / (count_T + _K1 * (1 - _B + _B * length_T / self._mean_length))
        return saturated

    def _rarest_first(self, terms: Sequence[str]) -> tuple[Ints, Ints]:
        """Return the terms that are in the index, the rarest first, and how often each occurs."""
        known = [number for number in map(self._terms.get, terms) if number is not None]
        term_V, weight_V = np.unique(np.array(known, np.int64), return_counts=True)
        frequency_V = self._starts_V[term_V + 1] - self._starts_V[term_V]
        order = np.argsort(frequency_V, kind="stable")
        return term_V[order], weight_V[order]

    def _posted(self, term: int) -> slice:
        return slice(self._starts_V[term], self._starts_V[term + 1])

    def _looked_up(self, term: int, documents: Ints) -> Doubles:
        """Return the score of a term in these documents, 0 where it does not occur."""
        posted = self._posted(term)
        having = self._document_T[posted]
        place = np.minimum(np.searchsorted(having, documents), len(having) - 1)
        return np.where(having[place] == documents, self._score_T[posted][place], 0.0).astype(np.float64)


def _first(documents: Ints, score: Doubles, k: int) -> tuple[Ints, Doubles]:
    """Return the `k` best, of equal scores the smaller document first, also at the cut-off."""
    if len(score) > k:
        kept = score >= -np.partition(-score, k - 1)[k - 1]
        documents, score = documents[kept], score[kept]
    order = np.lexsort((documents, -score))[:k]
    return documents[order].astype(np.int64), score[order]
