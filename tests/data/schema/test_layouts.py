from __future__ import annotations

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st

from finetune.data.schema.layouts import find_roles, is_role_name
from finetune.errors import CheckFailed

NAMES = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["anchor", "positive"], ("anchor", "positive")),
        ([" Query ", "DOCUMENT"], (" Query ", "DOCUMENT")),
        (["id", "answer", "question"], ("question", "answer")),
        (["description", "word"], ("description", "word")),
        (["sentence1", "sentence2"], ("sentence1", "sentence2")),
        (["query", "title", "passage", "text"], ("query", "passage")),
        (["anchor", "positive", "negative"], ("anchor", "positive", "negative")),
        (["neg", "query", "pos"], ("query", "pos", "neg")),
        (["query", "hard negative 2", "negative_1", "doc"], ("query", "doc", "hard negative 2", "negative_1")),
    ],
)
def test_columns_are_detected_by_their_names(header, expected):
    assert tuple(find_roles(header).names) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["left", "right"], ("left", "right")),
        (["title", "description"], ("title", "description")),
        (["answer", "something"], ("something", "answer")),
        (["something", "question"], ("question", "something")),
        (["left", "right", "negative"], ("left", "right", "negative")),
    ],
)
def test_two_columns_are_enough_to_guess_with_a_note(header, expected):
    roles = find_roles(header)
    assert tuple(roles.names) == expected
    assert roles.note == f"Taking '{expected[0]}' as the anchor and '{expected[1]}' as the positive."


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["c", "a"], ("c", "a")),
        (["c", "a", "b"], ("c", "a", "b")),
        ({"positive": "a", "anchor": "b"}, ("b", "a")),
        ({"anchor": "b", "positive": "a", "negative": "c"}, ("b", "a", "c")),
        ({"anchor": "b", "positive": "a", "negative": ["c", "score"]}, ("b", "a", "c", "score")),
    ],
)
def test_the_setting_decides_the_roles(columns, expected):
    assert tuple(find_roles(["a", " b", "c", "score"], (), columns).names) == tuple(
        " b" if n == "b" else n for n in expected
    )


@pytest.mark.parametrize(
    ("names", "row", "layout"),
    [
        (["query", "document", "grade"], ("a", "b", "2"), "judgments"),
        (["Score", "Text1", "Text2"], ("0.5", "a", "b"), "scored pairs"),
        (["sentence1", "sentence2", "label"], ("a", "b", "1"), "scored pairs"),
        (["text", "label"], ("a", "sports"), "labelled"),
        (["id", "item", "category"], ("7", "a", "x"), "labelled"),
        (["vector", "label"], ([0.1, 0.2], "x"), "labelled"),
        (["query", "positives", "negatives"], ("a", ["x", "y"], ["z"]), "several positives"),
        (["query", "positives", "negatives"], ("a", '["x"]', "[]"), "several positives"),
        (["query", "documents", "scores"], ("a", ["x", "y"], [0.1, 0.2]), "scored lists"),
        (["anchor", "positive", "negatives"], ("a", "b", ["x"]), "triplets"),
        (["image", "caption"], ("a.png", "b"), "pairs"),
        (["text"], ("a",), "texts"),
        (["anchor", "positive"], ([0.1], [0.2]), "pairs"),  # a list of numbers is one vector
        (["query", "answer"], ("a", "[unclear]"), "pairs"),  # and a bracket is no list
    ],
)
def test_layouts_are_detected(names, row, layout):
    assert find_roles(names, [row, row]).layout == layout


@pytest.mark.parametrize(
    ("row", "settings", "layout"),
    [
        (("a", "b"), {}, "pairs"),
        (("a", "b", "0.3"), {}, "scored pairs"),
        (("a", "b", "c"), {}, "triplets"),
        (("a", "b"), {"labelled": True}, "labelled"),
        (("a",), {}, "texts"),
    ],
)
def test_tables_without_a_header_have_roles_by_order(row, settings, layout):
    names = [str(i + 1) for i in range(len(row))]
    assert find_roles(names, [row], named=False, **settings).layout == layout


def test_too_many_columns_without_a_header_must_be_named_by_number():
    with pytest.raises(CheckFailed, match=r"no header and 4 columns.*data.columns=\[1,2\]"):
        find_roles(["1", "2", "3", "4"], [("a", "b", "c", "d")], named=False)
    assert find_roles(["1", "2", "3", "4"], [], ["3", "1"], named=False).names == ["3", "1"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"anchor": "a", "negative": "b"}, "names a negative column but no positive one"),
        ({"anchor": "a", "positive": "b", "label": "c"}, "either pairs or labelled items"),
        ({"anchor": "a", "positive": "b", "score": "c", "grade": "score"}, "both a score and a grade"),
        ({"anchor": "a", "positive": "b", "score": "c", "negative": "score"}, "both scores .* and negatives"),
        ({"anchr": "a"}, "Did you mean 'anchor'"),
        ({"anchor": "a", "positive": "scor"}, "Did you mean 'score'"),
        (["a", "a"], "names 'a' twice"),
    ],
)
def test_contradictory_columns(columns, said):
    with pytest.raises(CheckFailed, match=said):
        find_roles(["a", "b", "c", "score"], [("x", "y", "1", "2")], columns)


def test_words_next_to_a_pair_are_a_question():
    with pytest.raises(CheckFailed, match="may be the class of an item, or say how well two items match"):
        find_roles(["sentence1", "sentence2", "label"], [("a", "b", "entailment")])


@pytest.mark.parametrize(("name", "known"), [("Query", True), ("hard_negative_3", True), ("label", True), ("a", False)])
def test_names_that_a_header_has(name, known):
    assert is_role_name(name) is known


@pytest.mark.parametrize(
    "header",
    [["x", "y", "z"], ["query", "question", "answer"], ["query", "x", "y"], ["title", "text", "label"]],
)
def test_undecided_names_are_a_question(header):
    with pytest.raises(CheckFailed, match=r"data.columns=\["):
        find_roles(header)


def test_a_list_in_place_of_one_column_is_a_problem():
    with pytest.raises(CheckFailed, match=r"data.columns.anchor: must be one column"):
        find_roles(["a", "b", "c"], (), {"anchor": ["a", "b"], "positive": "c"})


@given(names=st.lists(NAMES.map(str.strip).filter(bool), min_size=3, max_size=3, unique=True))
@example(names=["what, me?", "a:b", "c=d"])
@example(names=["null", "1e5", "it's"])
@example(names=['say "hi"', "back\\", '\\"'])
@example(names=["TRUE", "$x", "é"])
@example(names=["wide {a: b}", "[x]", "- neg"])
def test_the_advice_is_valid_on_the_command_line(names):
    try:
        find_roles(names)
        reject()  # names that say what they are
    except CheckFailed as failed:
        advice = failed.problems[0].advice
    assume(advice.startswith("Name them"))  # and not that they are scores
    first, second = re.fullmatch(r"Name them, as in (.*) or (.*?)\.", advice, re.DOTALL).groups()
    parser = OverridesParser.create()
    assert [parser.parse_override(text).value() for text in shlex.split(first)] == [names[:2]]
    expected = {"anchor": names[0], "positive": names[1]}
    assert [parser.parse_override(text).value() for text in shlex.split(second)] == [expected]


@pytest.mark.parametrize(
    ("columns", "said"), [([], "names no column."), ({"positive": "a"}, "names no anchor column.")]
)
def test_an_anchor_is_always_required(columns, said):
    with pytest.raises(CheckFailed, match=said):
        find_roles(["a", "b"], (), columns)
