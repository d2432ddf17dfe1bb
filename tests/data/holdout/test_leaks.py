"""What training and evaluation have in common, against brute force on single texts."""

from __future__ import annotations

import re
import string
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.data.holdout import near_duplicates as nearness
from finetune.data.holdout import text_normalization as folding
from finetune.data.holdout.judgments import Judgments
from finetune.data.holdout.leaks import find_leaks
from finetune.data.holdout.near_duplicates import find_near_duplicates
from finetune.data.holdout.text_normalization import EqualityPrefilter, blocks, normalize, strip_prompts
from finetune.data.items import Items, Part
from finetune.data.relations import Relations

SIMILAR = st.text("aAbé é-?", max_size=6)
WORDS = st.lists(st.sampled_from(["red", "green", "blue", "Blue", "sea", "wind", "a", "ñu", "海"]), max_size=12)


def texts_of(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


def folded(*texts: str) -> list[str]:
    return normalize(texts_of(*texts)).to_pylist()


def judged(queries: list[int]) -> Judgments:
    none = np.empty(0, np.int64)
    return Judgments("test", np.array(queries, np.int64), none, none, none, none.astype(float))


def leaks_of(texts: list[str], rows: list[tuple[int, int]], queries: list[int], **settings):
    table = np.array(rows, np.int64).reshape(-1, 2)
    return find_leaks(
        Items.of_texts(texts_of(*texts)), Relations(table[:, 0], table[:, 1]), judged(queries), **settings
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Hello, World!", "hello world"),
        ("E-Mail", "email"),
        ("Café", "cafe"),
        ("cafe\u0301", "CAFÉ"),
        ("ﬁne", "fine"),
        ("\uff11\uff12", "12"),
        ("ΟΔΟΣ", "οδος"),
        ("a\u200bb\tc\u00a0d", "abcd"),
        ("«so»", '"so"'),
    ],
)
def test_texts_that_differ_in_what_does_not_count_are_folded_to_the_same(left, right):
    assert folded(left) == folded(right)


@pytest.mark.parametrize(("left", "right"), [("C", "C++"), ("कल", "कुल"), ("5 $", "5 €"), ("🍎", "🍌"), ("a1", "a2")])
def test_what_means_something_else_stays_apart(left, right):
    assert folded(left) != folded(right)


@given(text=st.text())
def test_folding_leaves_no_case_space_or_ascii_punctuation(text):
    (left,) = folded(text)
    assert not set(left) & set(string.whitespace + string.ascii_lowercase + "-_.,;:!?\"'()[]{}/\\@#%&*")
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Zs", "Po", "Ps", "Pe") for char in left)


@given(texts=st.lists(st.one_of(SIMILAR, st.text(max_size=5)), max_size=20), asked=st.lists(SIMILAR, max_size=5))
@example(texts=["İ"], asked=["I"])
def test_no_text_is_ruled_out_that_is_equal_when_folded(texts, asked):
    wanted = folded(*asked)
    possible = EqualityPrefilter(texts_of(*wanted))(texts_of(*texts))
    assert all(possible[i] for i, text in enumerate(folded(*texts)) if text in wanted)


def test_most_ascii_texts_are_ruled_out_unread():
    texts = [f"text number {i}" for i in range(10_000)]
    assert EqualityPrefilter(normalize(texts_of(*texts[:100])))(texts_of(*texts)).sum() < 300


@given(texts=st.lists(st.text(max_size=9), max_size=30), cut=st.integers(0, 5))
def test_blocks_are_all_texts_in_order(texts, cut):
    array = texts_of(*texts).slice(cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "BLOCK_BYTES", 12)
        found = list(blocks(array))
    assert [text for _, block in found for text in block.to_pylist()] == array.to_pylist()
    assert [first for first, _ in found] == np.cumsum([0, *(len(block) for _, block in found)])[: len(found)].tolist()


def test_prompts_are_taken_off_once_the_longest_first():
    texts = texts_of("query: a", "query: the b", "query: query: c", "passage: d", "e query: ", "qu.ry: f")
    bare = strip_prompts(texts, ["query: ", "query: the ", "", "passage: "])
    assert bare.to_pylist() == ["a", "b", "query: c", "d", "e query: ", "qu.ry: f"]
    assert strip_prompts(texts_of("(a|b)* x", "b x"), ["(a|b)* "]).to_pylist() == ["x", "b x"]


def shingles(text: str) -> set[str]:
    (whole,) = folded(text)
    return {(whole + "\0\0")[i : i + 3] for i in range(len(whole))}


def share(left: str, right: str) -> float:
    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b) if a | b else 0.0


@settings(deadline=None)
@given(
    texts=st.lists(st.one_of(WORDS.map(" ".join), SIMILAR), max_size=20),
    asked=st.lists(st.one_of(WORDS.map(" ".join), SIMILAR), max_size=6),
    threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    at_once=st.sampled_from([3, 1 << 22]),
    block=st.sampled_from([10, 1 << 22]),
)
def test_near_duplicates_are_exactly_those_of_brute_force(texts, asked, threshold, at_once, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearness, "_AT_ONCE", at_once)
        patch.setattr(folding, "BLOCK_BYTES", block)
        found = find_near_duplicates(texts_of(*texts), np.ones(len(texts), bool), texts_of(*asked), threshold)
    closest = [max((share(text, query) for query in asked), default=0.0) for text in texts]
    assert found.text.tolist() == [i for i, best in enumerate(closest) if best >= threshold - 1e-9]
    for text, query, common in zip(*(part.tolist() for part in found), strict=True):
        assert common == pytest.approx(closest[text])
        assert share(texts[text], asked[query]) == pytest.approx(common)


def test_planted_near_duplicates_are_found_among_many():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(string.ascii_lowercase), rng.integers(2, 9))) for _ in range(2000)]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(20_000)]
    asked = [" ".join(rng.choice(words, 12)) for _ in range(200)]
    planted = rng.choice(len(texts), 200, replace=False)
    for place, query in zip(planted, asked, strict=True):
        texts[place] = re.sub(r"^\w+", "other", query)
    expected = sorted(int(p) for p, query in zip(planted, asked, strict=True) if share(texts[p], query) >= 0.8)
    assert len(expected) > 150
    assert find_near_duplicates(texts_of(*texts), np.ones(len(texts), bool), texts_of(*asked)).text.tolist() == expected


def test_a_relation_counts_once_where_it_is_closest_and_the_sentence_is_kept():
    texts = ["what is rain", "What is rain?", "what is the rain", "water", "snow", "rain", "ice"]
    rows = [(0, 3), (4, 0), (1, 3), (1, 0), (2, 3), (4, 5), (5, 6)]
    leaks = leaks_of(texts, rows, [0])
    assert (leaks.exact, leaks.normalized, leaks.near) == (3, 1, None)
    assert leaks.facts() == {"leaks": 3, "leaks_normalised": 1}
    assert leaks.notes() == [
        "3 training pairs contain a validation query: the figures will flatter the model.",
        "1 training pair contains a validation query but for case, spaces, punctuation or accents, as 'What is rain?' "
        "in training and 'what is rain' in the evaluation.",
    ]


def test_one_pair_is_one_pair():
    leaks = leaks_of(["a", "b"], [(0, 1)], [0])
    assert leaks.notes() == ["1 training pair contains a validation query: the figures will flatter the model."]


def test_near_duplicates_are_noted_if_they_are_searched_for():
    texts = ["how do I make a good cup of tea in the morning", "how do I make a good cup of tea in the evening", "tea"]
    query = [*texts, "How do I make a good cup of tea in the mornings?"]
    leaks = leaks_of(query, [(0, 2), (1, 2)], [3], near=True)
    assert (leaks.exact, leaks.normalized, leaks.near) == (0, 0, 1)
    assert leaks.facts()["leaks_near"] == 1
    (note,) = leaks.notes()
    assert note.startswith("1 training pair contains a near-duplicate of a validation query (at least 80% of ")
    assert texts[0] in note
    assert query[3] in note


def test_negatives_and_documents_are_no_leak():
    relations = Relations(np.array([0]), np.array([1]), np.array([[2]]))
    items = Items.of_texts(texts_of("a", "b", "c"))
    assert find_leaks(items, relations, judged([2])).exact == 0


def test_labelled_items_that_are_trained_on_and_queried():
    leaks = leaks_of(["a b", "A b", "c"], [(0, -1), (1, -1), (2, -1)], [0])
    assert (leaks.exact, leaks.normalized) == (1, 1)
    assert leaks.notes()[0] == "1 training item equals a validation query: the figures will flatter the model."


def test_a_text_is_the_same_under_another_prompt():
    texts = ["query: rain", "passage: rain", "passage: Rain!", "query: snow"]
    leaks = leaks_of(texts, [(3, 1), (3, 2)], [0], prompts=["query: ", "passage: "])
    assert (leaks.exact, leaks.normalized) == (1, 1)
    assert leaks_of(texts, [(3, 1), (3, 2)], [0]).exact == 0


def test_what_is_no_text_leaks_by_being_the_same_only():
    items = Items((Part("text", texts_of("a")), Part("image", texts_of("x.png", "X.png"))))
    relations = Relations(np.array([1, 2]), np.array([0, 0]))
    leaks = find_leaks(items, relations, judged([1]), near=True)
    assert (leaks.exact, leaks.normalized, leaks.near) == (1, 0, 0)


@settings(deadline=None)
@given(
    texts=st.lists(st.text(), min_size=2, max_size=12, unique=True),
    queries=st.sets(st.integers(0, 1), min_size=1),
    near=st.booleans(),
)
def test_hostile_texts_are_counted_and_quoted_on_one_line(texts, queries, near):
    rows = [(i, (i + 1) % len(texts)) for i in range(len(texts))]
    leaks = leaks_of(texts, rows, sorted(queries), near=near)
    assert 0 < leaks.exact + leaks.normalized + (leaks.near or 0) <= len(rows)
    assert all(note.isprintable() for note in leaks.notes())


def test_texts_of_nothing_but_punctuation_are_not_all_the_same():
    assert leaks_of(["???", "!!!", "a"], [(1, 2)], [0], near=True).notes() == []
