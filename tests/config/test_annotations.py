"""Annotations read from text, against what Python itself makes of the same text."""

from __future__ import annotations

import ast
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from finetune.config import types as config_types
from finetune.config.annotations import describe_type, evaluate_annotation, fits, mismatch
from finetune.config.static_source import Module
from finetune.config.types import FolderName, Fraction, NotEmpty, NotEmptyText, PositiveInt, Range

EMPTY = Module("empty")
SCOPE: dict[str, Any] = {
    **vars(typing),
    **vars(config_types),
    **{"Path": Path, "Sequence": Sequence, "Mapping": Mapping, "typing": typing, "types": config_types},
}


@pytest.mark.parametrize(
    "text",
    [
        "int", "None", "str | None", "Optional[int]", "Union[int, str, None]", "list[str]", "dict[str, int]", "Any",
        "Literal['a', 1, None]", "typing.Literal['a']", "tuple[int, float]", "tuple[int, ...]", "Sequence[str]",
        "Mapping[str, list[int]]", "PositiveInt", "types.Fraction", "PositiveInt | Literal['auto']", "Path | str",
        "Annotated[list[PositiveInt], NotEmpty()]", "NotEmptyText",
        "Annotated[int, Range(at_least=2)]", "Annotated[float, Range(0, 1)]", "'PositiveInt | None'", "List[int]",
    ],
)  # fmt: skip
def test_reads_what_python_reads(text: str) -> None:
    expected = eval(text, SCOPE)
    expected = eval(expected, SCOPE) if isinstance(expected, str) else expected
    found = evaluate_annotation(ast.parse(text, mode="eval").body, EMPTY)
    assert found == expected or (found is type(None) and expected is None)


@pytest.mark.parametrize("text", ["Tensor", "torch.Tensor", "list[", "foo()", "1 + 2", "Literal[x]", "torch.int"])
def test_unknown_types_are_not_checked(text: str) -> None:
    expression = ast.Constant(value=text)
    assert fits(object(), evaluate_annotation(expression, EMPTY))


@pytest.mark.parametrize(
    ("value", "annotation", "is_right"),
    [
        (1, int, True), (True, int, False), (1.0, int, False), ("1", int, False), (1, float, True),
        (True, float, False), (True, bool, True), (1, bool, False), (None, int | None, True), (None, int, False),
        ("a", Path, True),
        (1, Literal[True], False), (True, Literal[1], False), ([1, 2], list[int], True), ([1, "a"], list[int], False),
        ([0.9, 0.99], tuple[float, float], True), ([0.9], tuple[float, float], False),
        ([1, 2, 3], tuple[int, ...], True),
        ({"a": 1}, dict[str, int], True), ({"a": "b"}, dict[str, int], False), ("a", list[str], False),
        (0, PositiveInt, False), (1, PositiveInt, True), (True, PositiveInt, False), (1, Fraction, True),
        (float("nan"), Fraction, False), (float("inf"), Annotated[float, Range(at_least=0)], False),
        (float("inf"), float, True), ([], Annotated[list[int], NotEmpty()], False),
        ([0], Annotated[list[int], NotEmpty()], True), (" ", NotEmptyText, False), ("a", NotEmptyText, True),
        ("x", PositiveInt | Literal["x"], True),
    ],
)  # fmt: skip
def test_fits(value: object, annotation: Any, is_right: bool) -> None:
    assert fits(value, annotation) is is_right
    assert (mismatch(value, annotation) is None) is is_right


def test_words() -> None:
    assert describe_type(PositiveInt | Literal["auto"] | None) == "a whole number of at least 1, 'auto' or null"
    assert describe_type(tuple[float, float]) == "a list of 2 (each: a number)"
    assert describe_type(Annotated[float, Range(above=0, at_most=1)]) == "a number above 0 and at most 1"
    assert str(Range(at_most=3)) == "of at most 3"
    assert mismatch([], Annotated[list[int], NotEmpty()]) == (
        "expected a list (each: a whole number) that is not empty, found []"
    )
    assert mismatch({"a": [None, True]}, int) == "expected a whole number, found {a: [null, true]}"
    assert mismatch("x" * 200, int) == f"expected a whole number, found 'xxxx{'x' * 72}..."


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("run 1", True), ("it's \"x\"", True), ("ü" * 100, True), ("ü" * 101, False), ("", False), (".", False),
        ("..", False), (".x", False), ("a/b", False), ("a\\b", False), ("a\0", False), ("a\nb", False), (" a", False),
        ("a ", False), ("\udc80", False),
    ],
)  # fmt: skip
def test_folder_names(name: str, is_right: bool) -> None:
    assert FolderName().holds(name) is is_right
