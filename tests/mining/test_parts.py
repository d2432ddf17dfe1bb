"""The parts of mining by themselves: texts that hardly differ, documents of their own, items that are no texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.holdout.text_normalization import normalize
from finetune.data.items import ABSENT, Items, Part
from finetune.data.known_positives import KnownPositives
from finetune.errors import CheckFailed
from finetune.mining.corpus import with_documents
from finetune.mining.dense import Dense
from finetune.mining.mine import mine
from finetune.mining.near_texts import NearTexts
from tests.mining.made import Vectors, items_of, pairs, settings_of

LETTERS = st.text("abc é!X", max_size=30)


def trigrams(text: str) -> set[str]:
    normalized = normalize(pa.array([text], pa.large_string()))[0].as_py() + "\0\0"
    return {normalized[i : i + 3] for i in range(len(normalized) - 2)}


@given(texts=st.lists(st.tuples(LETTERS, LETTERS), min_size=1, max_size=20), threshold=st.sampled_from([0.5, 0.8, 1.0]))
def test_near_texts_are_those_with_enough_common_trigrams(texts: list[tuple[str, str]], threshold: float) -> None:
    together = [text for pair in texts for text in pair]
    near = NearTexts(pa.array(together, pa.large_string()), [], threshold)
    found = near.among(np.arange(0, len(together), 2), np.arange(1, len(together), 2))
    for is_near, (left, right) in zip(found.tolist(), texts, strict=True):
        a, b = trigrams(left), trigrams(right)
        assert is_near == (bool(a | b) and len(a & b) >= threshold * len(a | b) - 1e-9), (left, right)


def test_almost_equal_long_texts_are_near_and_others_are_not() -> None:
    random = np.random.default_rng(0)
    words = [f"word{i}" for i in range(500)]
    texts = [" ".join(random.choice(words, 200)) for _ in range(40)]
    changed = [text[:400] + " something else " + text[420:] for text in texts]
    near = NearTexts(pa.array([*texts, *changed], pa.large_string()), [])
    assert near.among(np.arange(40), np.arange(40, 80)).all()
    assert not near.among(np.arange(40), np.roll(np.arange(40, 80), 1)).any()


def test_documents_of_their_own_get_numbers_after_those_of_the_data() -> None:
    items = items_of(["q", "d: a", "d: b"])
    known = KnownPositives.of_relations(pairs([0], [1]), 3, np.array([4, 4, ABSENT]))
    texts = pa.chunked_array([["a", "new"], ["new", "other"]], pa.large_string())
    more, known, documents = with_documents(items, known, texts, "d: ")
    assert more.texts.to_pylist() == ["q", "d: a", "d: b", "d: new", "d: other"]
    assert documents.tolist() == [1, 3, 4]
    assert known.of(np.array([0, 4]))[1].tolist() == [1]
    assert known.group.tolist() == [4, 4, ABSENT, ABSENT, ABSENT]
    table = np.ones((5, 2), np.float32)
    found = mine(pairs([0], [1]), more, known, documents, [Dense(Vectors(table))], settings_of(count=2), 0)
    assert found.negatives.tolist() == [[3, 4]]


IMAGES = Items((Part("text", pa.array(["q"], pa.large_string())), Part("image", pa.array(["a.png", "b.png"]))))


def test_items_that_are_no_texts_are_mined_by_their_vectors() -> None:
    known = KnownPositives.of_relations(pairs([0], [1]), 3)
    chosen = settings_of(count=1, near_duplicates=True)
    arguments = pairs([0], [1]), IMAGES, known, np.array([1, 2])
    found = mine(*arguments, [Dense(Vectors(np.ones((3, 2), np.float32)))], chosen, 0)
    assert found.negatives.tolist() == [[2]]


def test_a_corpus_for_other_items_than_texts_is_refused() -> None:
    known = KnownPositives.of_relations(pairs([0], [1]), 3)
    with pytest.raises(CheckFailed, match="a corpus is of texts"):
        with_documents(IMAGES, known, pa.chunked_array([["x"]], pa.large_string()))
