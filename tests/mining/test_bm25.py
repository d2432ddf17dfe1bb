from __future__ import annotations

import math

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.items import ABSENT
from finetune.mining.bm25 import BM25, terms_of
from tests.mining.made import items_of

WORDS = st.sampled_from(["red", "blue", "cat", "dog", "the", "of", "tree", "sea", "house", "a"])
TEXTS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), min_size=1, max_size=30, unique=True)


def brute_force(query: str, documents: list[str]) -> np.ndarray:
    """Return the scores by the formula, written out."""
    split = [document.split() for document in documents]
    mean = max(1.0, sum(map(len, split)) / len(split))
    scores = []
    for words in split:
        score = 0.0
        for term in query.split():
            frequency = sum(term in other for other in split)
            if frequency:
                idf = math.log(1 + (len(split) - frequency + 0.5) / (frequency + 0.5))
                count = words.count(term)
                score += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))
        scores.append(score)
    return np.array(scores)


@given(documents=TEXTS, query=st.lists(WORDS, max_size=6).map(" ".join), k=st.integers(1, 12))
def test_finds_the_documents_with_the_highest_scores(documents: list[str], query: str, k: int) -> None:
    texts = [*documents, f"{query} "]  # another text than any document
    retriever = BM25(items_of(texts))
    hits = retriever.search(np.array([len(documents)]), np.arange(len(documents)), k)
    expected = brute_force(query, documents)
    found = hits.items[0][hits.items[0] != ABSENT]
    assert len(found) == min(k, int((expected > 0).sum()))
    np.testing.assert_allclose(hits.scores[0, : len(found)], np.sort(expected)[::-1][: len(found)], rtol=1e-5)
    np.testing.assert_allclose(expected[found], hits.scores[0, : len(found)], rtol=1e-5)
    if len(found):
        again = retriever.score(np.full(len(found), len(documents)), found)
        assert again.tobytes() == hits.scores[0, : len(found)].tobytes()  # bit for bit: thresholds compare them


def test_scores_are_those_of_bm25s() -> None:
    random = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(2000)]
    zipf = 1 / np.arange(1, 2001)
    documents = [" ".join(random.choice(vocabulary, 30, p=zipf / zipf.sum())) for _ in range(3000)]
    queries = [" ".join(random.choice(vocabulary, 8, p=zipf / zipf.sum())) + f" q{i}" for i in range(100)]
    quiet = {"show_progress": False}
    peer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    peer.index([document.split() for document in documents], **quiet)
    _, expected = peer.retrieve([query.split() for query in queries], k=20, **quiet)
    items = items_of([*documents, *queries])
    hits = BM25(items).search(np.arange(3000, 3100), np.arange(3000), 20)
    np.testing.assert_allclose(hits.scores, expected, rtol=1e-4)


def test_equal_scores_are_ordered_by_item_also_at_the_cut_off() -> None:
    items = items_of(["cat", "cat a", "cat b", "cat c", "cat d", "dog"])
    hits = BM25(items).search(np.array([0]), np.array([1, 2, 3, 4, 5]), 2)
    assert hits.items.tolist() == [[1, 2]]


def test_results_do_not_depend_on_how_anchors_are_divided() -> None:
    random = np.random.default_rng(1)
    items = items_of([" ".join(random.choice(list("abcdefgh"), 5)) + f" {i}" for i in range(60)])
    whole = BM25(items).search(np.arange(20), np.arange(60), 5)
    parts = [BM25(items).search(np.array([i]), np.arange(60), 5) for i in range(20)]
    assert whole.items.tolist() == [part.items[0].tolist() for part in parts]
    assert whole.scores.tobytes() == np.concatenate([part.scores for part in parts]).tobytes()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The RED cat's Straße", ["the", "red", "cat", "s", "strasse"]),
        ("東京都の天気", ["東京", "京都", "都の", "の天", "天気"]),
        ("GPU東京", ["gpu", "東京"]),
        ("猫", ["猫"]),
        ("снег идёт", ["снег", "идёт"]),
        ("!?", []),
    ],
)
def test_terms_in_any_language(text: str, terms: list[str]) -> None:
    assert terms_of(text) == terms


def test_prompts_are_no_words() -> None:
    items = items_of(["query: red cat", "passage: red dog", "passage: query tool"])
    hits = BM25(items, ["query: ", "passage: "]).search(np.array([0]), np.array([1, 2]), 2)
    assert hits.items.tolist() == [[1, ABSENT]]
