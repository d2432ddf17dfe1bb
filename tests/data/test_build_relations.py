from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.bad_rows import BadRows
from finetune.data.known_positives import KnownPositives
from finetune.data.prepare import prepare
from finetune.data.prompts import Prompts
from tests.data.tables import prepared, texts, typed_source


def faults(bad: BadRows) -> list[tuple[int, str | None, str]]:
    return [(row.line, row.column, row.kind) for row in bad.first]


def right_for(known: KnownPositives, items: list[str], item: str) -> set[str]:
    """Everything that is known to be right for an item, by pairs or by groups."""
    number = np.array([items.index(item)])
    found = {items[i] for i in known.of(number)[1]}
    if known.group is not None and known.group[number[0]] >= 0:
        found |= {items[i] for i in np.flatnonzero(known.group == known.group[number[0]])}
    return found - {item}


def test_pairs():
    found, bad = prepared({"anchor": ["a", "b", "a"], "positive": ["x", "y", "x"]})
    assert texts(found) == [("a", "x"), ("b", "y")]
    assert found.layouts == ["pairs"]
    assert found.duplicates == 1
    assert not bad


def test_triplets_with_an_absent_negative():
    found, _ = prepared({"query": ["a", "b"], "doc": ["x", "y"], "negative": ["y", None], "negative_1": ["z", " "]})
    assert found.layouts == ["triplets"]
    assert texts(found)[0] == ("a", "x", "y", "z")
    assert found.relations.negatives[1, 0] == -1


def test_lists_of_positives_and_negatives():
    found, _ = prepared({"query": ["a", "b"], "positives": [["x", "y"], ["z"]], "negatives": [["n"], ["m", "o"]]})
    assert found.layouts == ["several positives"]
    assert texts(found) == [("a", "x", "n", None), ("a", "y", "n", None), ("b", "z", "m", "o")]
    items = found.items.take(np.arange(len(found.items)))
    assert right_for(found.known, items, "a") == {"x", "y"}


def test_lists_written_as_json_in_cells():
    found, bad = prepared({"query": ["a", "b"], "positives": ['["x", "y"]', '["z"]'], "negatives": ["[]", '["m"]']})
    assert texts(found) == [("a", "x", None), ("a", "y", None), ("b", "z", "m")]
    assert not bad


def test_scored_pairs():
    found, bad = prepared({"text1": ["a", "b", "c"], "text2": ["x", "y", "z"], "score": ["0.5", "+1", "-2e-1"]})
    assert found.layouts == ["scored pairs"]
    np.testing.assert_allclose(found.relations.score, [[0.5], [1.0], [-0.2]], atol=1e-7)
    assert not bad


def test_scored_pairs_become_pairs_from_a_score_on():
    found, _ = prepared({"text1": ["a", "b"], "text2": ["x", "y"], "score": [0.5, 0.9]}, min_score=0.6)
    assert texts(found) == [("b", "y")]
    assert found.layouts == ["pairs"]
    assert found.relations.score is None
    assert found.notes == ["1 pair was left out: the score is below 0.6."]


def test_scored_lists_put_the_best_first():
    columns = {"query": ["a", "b"], "documents": [["x", "y", "z"], ["w"]], "scores": [[0.1, 0.9, 0.5], [0.2]]}
    found, _ = prepared(columns)
    assert found.layouts == ["scored lists"]
    assert texts(found) == [("a", "y", "z", "x"), ("b", "w", None, None)]
    expected = np.array([[0.9, 0.5, 0.1], [0.2, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(found.relations.score, expected)


def test_judgments_take_wrong_answers_as_negatives():
    columns = {"query": ["a", "a", "a", "b", "c"], "document": ["x", "y", "z", "x", "y"], "grade": [2, 0, 1, 1, 0]}
    found, _ = prepared(columns)
    assert found.layouts == ["judgments"]
    assert texts(found) == [("a", "x", "y"), ("a", "z", "y"), ("b", "x", None)]
    np.testing.assert_array_equal(found.relations.score[:, 0], [2, 1, 1])
    assert found.notes == ["1 queries have no right answer (a grade above 0) and are left out."]


def test_labelled():
    found, bad = prepared({"text": ["a", "b", "c", "d", "e"], "label": ["1", "1", "2", "2", "3"]})
    assert found.layouts == ["labelled"]
    assert found.labels == ["1", "2", "3"]
    assert faults(bad) == [(6, "label", "lonely")]
    items = found.items.take(np.arange(len(found.items)))
    assert right_for(found.known, items, "a") == {"b"}


def test_a_text_of_two_classes_is_right_for_both():
    found, _ = prepared({"text": ["a", "b", "c", "d", "a"], "label": ["1", "1", "2", "2", "2"]})
    items = found.items.take(np.arange(len(found.items)))
    assert right_for(found.known, items, "a") == {"b", "c", "d"}
    assert right_for(found.known, items, "c") == {"a", "d"}
    assert right_for(found.known, items, "b") == {"a"}


def test_chains_of_paraphrases():
    columns = {"anchor": ["a", "b", "x"], "positive": ["b", "c", "y"]}
    items = ["a", "b", "x", "c", "y"]
    chained, _ = prepared(columns, transitive=True)
    assert right_for(chained.known, items, "a") == {"b", "c"}
    direct, _ = prepared(columns)
    assert right_for(direct.known, items, "a") == {"b"}


def test_prompts_make_items_of_their_own_that_are_known_to_be_the_same():
    found, _ = prepared({"anchor": ["a", "b"], "positive": ["b", "c"]}, prompts=Prompts("query: ", "passage: "))
    assert texts(found) == [("query: a", "passage: b"), ("query: b", "passage: c")]
    items = found.items.take(np.arange(len(found.items)))
    # b was asked for by a, so a is no wrong answer to b, whichever of the two is the query.
    assert right_for(found.known, items, "query: b") == {"passage: b", "passage: c", "query: a"}
    assert found.component[items.index("query: a")] == found.component[items.index("passage: c")]


def test_bad_rows_are_named_once_each():
    found, bad = prepared(
        {
            "anchor": ["a", " ", "c", "d", "e", None],
            "positive": ["x", "y", "c", "z", "w", "v"],
            "negative": ["n", "m", "o", "z", None, "q"],
        }
    )
    assert faults(bad) == [
        (3, "anchor", "empty"),
        (4, "anchor", "same"),
        (5, "negative", "negative"),
        (7, "anchor", "empty"),
    ]
    assert texts(found) == [("a", "x", "n"), ("e", "w", None)]


@pytest.mark.parametrize("score", ["NaN", "inf", "two", "", None, "1,5"])
def test_a_score_that_is_no_number(score):
    found, bad = prepared(
        {"text1": ["a", "b"], "text2": ["x", "y"], "score": ["0.5", score]}, ["text1", "text2", "score"]
    )
    assert faults(bad) == [(3, "score", "number")]
    assert len(found.relations) == 1


def test_scores_and_documents_of_different_number():
    columns = {"query": ["a", "b"], "documents": [["x"], ["y", "z"]], "scores": [[0.1, 0.2], [0.3, 0.4]]}
    found, bad = prepared(columns)
    assert faults(bad) == [(2, "scores", "lengths")]
    assert texts(found) == [("b", "z", "y")]


def test_several_sources_share_items_and_keep_apart_their_classes():
    pairs = typed_source({"anchor": ["a", "b"], "positive": ["x", "y"]}, name="faq")
    labelled = typed_source({"text": ["a", "c", "d", "e"], "label": ["1", "1", "2", "2"]}, name="topics")
    found = prepare([pairs, labelled], None, BadRows())
    assert found.sources == ["faq", "topics"]
    assert found.layouts == ["pairs", "labelled"]
    np.testing.assert_array_equal(found.relations.source, [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.relations.label, [-1, -1, 0, 0, 1, 1])
    items = found.items.take(np.arange(len(found.items)))
    assert right_for(found.known, items, "a") == {"x", "c"}


words = st.sampled_from(["a", "b", "c", "d", "e", "f"])


@given(st.lists(st.tuples(words, words, st.lists(words, max_size=3)), min_size=1, max_size=12))
def test_what_is_related_is_what_stood_in_the_rows(rows):
    columns = {
        "query": [a for a, _, _ in rows],
        "positives": [[p] for _, p, _ in rows],
        "negatives": [n for *_, n in rows],
    }
    found, bad = prepared(columns, {"anchor": "query", "positive": "positives", "negative": "negatives"})
    good = [(a, p, *n) for a, p, n in rows if a != p and p not in n]
    read = [tuple(text for text in row if text is not None) for row in texts(found)]
    assert read == list(dict.fromkeys(good))
    assert len(bad) == len(rows) - len(good)
    for a, p, *_ in good:
        items = found.items.take(np.arange(len(found.items)))
        assert p in right_for(found.known, items, a)
        assert a in right_for(found.known, items, p)


def test_of_several_grades_of_a_pair_the_best_counts_with_a_note():
    columns = {"query": ["a", "a", "a", "b"], "document": ["x", "x", "y", "x"], "grade": [1, 2, 0, 1]}
    found, _ = prepared(columns)
    assert texts(found) == [("a", "x", "y"), ("b", "x", None)]
    assert found.relations.score[:, 0].tolist() == [2, 1]
    assert found.notes == ["1 pair of texts has several grades: the best one counts."]
