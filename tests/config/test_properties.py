"""Typos of every legal key, and whatever else fingers can type."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from finetune.config.check import check
from finetune.config.compose import compose
from finetune.config.suggest import edit_distance, nearest
from finetune.config.values import keys_of
from finetune.errors import CheckFailed

QUICK = settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LETTERS = string.ascii_lowercase + "_"


@pytest.fixture(scope="module")
def keys() -> list[str]:
    tree = OmegaConf.to_container(compose([]), resolve=False)
    return [key for key in keys_of(tree) if not key.startswith("hydra") and not key.endswith("_")]


def edited(draw: st.DrawFn, word: str) -> str:
    place = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from(LETTERS))
    kind = draw(st.sampled_from(["insert", "delete", "replace", "swap"]))
    if kind == "insert":
        return word[:place] + letter + word[place:]
    if kind == "delete":
        return word[:place] + word[place + 1 :]
    if kind == "replace":
        return word[:place] + letter + word[place + 1 :]
    return word[:place] + word[place : place + 2][::-1] + word[place + 2 :]


@st.composite
def typos(draw: st.DrawFn, keys: list[str]) -> tuple[str, str]:
    key = draw(st.sampled_from(keys))
    parts = key.split(".")
    index = draw(st.integers(0, len(parts) - 1))
    parts[index] = edited(draw, parts[index])
    return key, ".".join(parts)


@given(data=st.data())
@settings(QUICK, max_examples=60)
def test_the_right_key_is_among_the_suggestions_for_one_slip(keys: list[str], data: st.DataObject) -> None:
    key, typo = data.draw(typos(keys))
    if typo not in keys and typo.strip("."):
        assert key in nearest(typo, keys)


@given(data=st.data())
@QUICK
def test_the_check_suggests_the_right_key_for_one_typo(keys: list[str], data: st.DataObject) -> None:
    key, typo = data.draw(typos(keys))
    # An empty part is no key, and one slip can make another legal key (or a parameter that can be added).
    if typo in keys or "" in typo.split(".") or any(typo.startswith(f"{other}.") and other != key for other in keys):
        return
    with pytest.raises(CheckFailed) as failed:
        check([f"{typo}=1"])
    assert key in str(failed.value)


overrides = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="~+abc.=@/:[]{}()'\"$,\\ \n5-", max_size=20),
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "++", "~"]),
        st.sampled_from(
            ["model", "hydra", "hydra.run", "hydra.run.dir", "callbacks", "data.columns", "name", "trainer"]
        ),
        st.sampled_from(
            ["null", "5", "[]", "{}", "[1,{a: b}]", "${}", "${a", "${hydra:x}", "{_target_: x}", "???", "''"]
        )
        | st.text(max_size=8),
    ),
)


@given(typed=st.lists(overrides, max_size=3))
@example(typed=["hydra={_target_: x}"])  # an error that OmegaConf raises from itself
@settings(QUICK, max_examples=20)
def test_nothing_that_is_typed_raises_anything_else(typed: list[str]) -> None:
    try:
        check(typed)
    except CheckFailed as failed:
        assert failed.problems
        assert all(problem.what for problem in failed.problems)


@given(a=st.text(LETTERS, max_size=8), b=st.text(LETTERS, max_size=8))
@settings(deadline=None)
def test_distance_is_symmetric_and_zero_only_for_the_same(a: str, b: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(a=st.text("abc", max_size=8), b=st.text("abc", max_size=8), limit=st.sampled_from([0, 1, 1.7, 3, 5]))
@settings(deadline=None)
def test_a_limit_changes_only_distances_above_it(a: str, b: str, limit: float) -> None:
    far = edit_distance(a, b)
    assert edit_distance(a, b, limit) == (far if far <= limit else math.inf)


@pytest.mark.parametrize(
    ("a", "b", "far"), [("ca", "ac", 1), ("ca", "abc", 3), ("kitten", "sitting", 3), ("", "ab", 2)]
)
def test_distance_by_hand(a: str, b: str, far: int) -> None:
    assert edit_distance(a, b) == far


def test_case_does_not_matter_and_far_words_are_not_suggested() -> None:
    assert nearest("LR", ["optimizer.lr", "seed"]) == ["optimizer.lr"]
    assert nearest("zebra", ["lr", "seed"]) == []
    assert nearest("anything", []) == []
