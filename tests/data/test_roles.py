from __future__ import annotations

import pytest

from finetune.data.roles import find_roles
from finetune.errors import CheckFailed


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
