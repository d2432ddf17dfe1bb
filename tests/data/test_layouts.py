from __future__ import annotations

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st

from finetune.data.roles import find_roles
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
def test_columns_are_recognised_by_their_names(header, expected):
    assert tuple(find_roles(header, None).names) == expected


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
def test_two_columns_are_enough_to_guess_and_it_is_said(header, expected):
    roles = find_roles(header, None)
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
def test_named_columns_are_taken_as_named(columns, expected):
    assert tuple(find_roles(["a", " b", "c", "score"], columns).names) == tuple(
        " b" if n == "b" else n for n in expected
    )


@pytest.mark.parametrize(
    "header",
    [["x", "y", "z"], ["query", "question", "answer"], ["query", "x", "y"], ["query", "doc", "grade"], ["a1", "Label"]],
)
def test_what_the_names_leave_open_is_asked(header):
    with pytest.raises(CheckFailed, match=r"data.columns=\["):
        find_roles(header, None)


def test_a_list_in_place_of_one_column_is_refused():
    with pytest.raises(CheckFailed, match=r"data.columns.anchor: must be one column"):
        find_roles(["a", "b", "c"], {"anchor": ["a", "b"], "positive": "c"})


@given(names=st.lists(NAMES.map(str.strip).filter(bool), min_size=3, max_size=3, unique=True))
@example(names=["what, me?", "a:b", "c=d"])
@example(names=["null", "1e5", "it's"])
@example(names=['say "hi"', "back\\", '\\"'])
@example(names=["TRUE", "$x", "é"])
@example(names=["wide {a: b}", "[x]", "- neg"])
def test_the_advice_can_be_typed(names):
    try:
        find_roles(names, None)
        reject()  # names that say what they are
    except CheckFailed as failed:
        advice = failed.problems[0].advice
    assume(advice.startswith("Name them"))  # and not that they are scores
    first, second = re.fullmatch(r"Name them, as in (.*) or (.*?)\.", advice, re.DOTALL).groups()
    parser = OverridesParser.create()
    assert [parser.parse_override(text).value() for text in shlex.split(first)] == [names[:2]]
    expected = {"anchor": names[0], "positive": names[1]}
    assert [parser.parse_override(text).value() for text in shlex.split(second)] == [expected]


@pytest.mark.parametrize(("columns", "said"), [([], "names no column;"), (["a"], "names one column;")])
def test_too_few_columns_are_counted_in_words(columns, said):
    with pytest.raises(CheckFailed, match=said):
        find_roles(["a", "b"], columns)
