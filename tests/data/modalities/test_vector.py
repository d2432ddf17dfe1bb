from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from finetune.data.items import Items, Part
from finetune.data.modalities import facts, load, prepare_column, vector
from finetune.errors import CheckFailed, RunError
from tests.data.modalities.conftest import prepared

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TABLES = nps.arrays(np.float32, nps.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FLOATS)


def loaded(column: pa.ChunkedArray) -> np.ndarray:
    found: np.ndarray = load(Part("vector", column.combine_chunks().drop_null()))
    return found


@pytest.fixture(params=[1, 3, vector.MOST_CHUNK], autouse=True)
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "MOST_CHUNK", request.param)


@settings(max_examples=40, deadline=None)
@given(
    TABLES, st.sampled_from(["list", "large", "fixed", "view", "json", "bare", "commas", "parted"]), st.integers(0, 9)
)
def test_vectors_survive_a_round_trip(table: np.ndarray, form: str, cut: int) -> None:
    kinds = {
        "list": pa.list_(pa.float32()),
        "large": pa.large_list(pa.float64()),
        "fixed": pa.list_(pa.float32(), table.shape[1]),
    }
    texts = {"json": "[{}]", "bare": "{}", "commas": " ( {} )"}
    if form in texts:
        between = " " if form == "bare" else ", "
        array = pa.array([texts[form].format(between.join(map(repr, row.tolist()))) for row in table])
    else:
        kind = pa.list_view(pa.float32()) if form == "view" else kinds.get(form, kinds["fixed"])
        array = pa.array(table.tolist(), kind)
    chunks = [array.slice(0, cut), array.slice(cut)] if form == "parted" else [array]
    _, bad, column = prepared("vector", pa.chunked_array(chunks))
    assert bad == []
    found = loaded(column)
    assert np.array_equal(found, table)
    assert not np.signbit(found[found == 0]).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.lists(st.none() | st.floats(), max_size=3), max_size=12), st.booleans())
def test_bad_rows_are_null_and_reported(rows: list[Any], sliced: bool) -> None:
    array = pa.array([[1.0], *rows] if sliced else rows, pa.list_(pa.float64()))
    column = pa.chunked_array([array.slice(1) if sliced else array])
    stored, bad, _ = prepared("vector", column)
    widths = [len(row) for row in rows if row is not None]
    assert bad.rows == sorted(bad.rows)
    for row, value, reported in zip(rows, stored, [i in bad.rows for i in range(len(rows))], strict=True):
        if row is None:
            assert (value, reported) == (None, False)
            continue
        sound = bool(row) and all(one is not None and abs(one) < 3.5e38 for one in row)
        assert (value is None) == reported
        assert sound or reported
        if value is not None:
            assert len(value) == 4 * len(row)
    assert len({len(value) for value in stored if value is not None}) <= 1
    assert not widths or len(widths) == len(stored) - stored.count(None) + len(bad)


def test_the_fault_of_each_row_is_reported() -> None:
    rows = [[1.0, 2], [3, 4], [1], [], [float("nan"), 1], [1e39, 1], [None, 1], None]
    _, bad, _ = prepared("vector", pa.chunked_array([pa.array(rows, pa.list_(pa.float64()))]), Path())
    assert len(bad) == 5 or vector.MOST_CHUNK == 1
    assert (2, "vector", "the vector has 1 number, others have 2") in bad
    assert (3, "vector", "there are no numbers") in bad
    assert (4, "vector", "not all of them are finite numbers") in bad


def test_texts_of_numbers() -> None:
    good = ["[1, 2]", "1 2", "(+1.0;2e0)", "\t[ 1.  ,\n2 ] ", "1,2", ".1e1 2", "[1 2]"]
    wrong = ["one two", "[1, x]", "1", "[nan, 1]", "[Infinity, 1]", "[[1, 2]]", "[1, 2", "1__0 2", "0x1 2", "[1, null]"]
    stored, bad, column = prepared("vector", [*good, *wrong, "", " ", None])
    assert [stored.index(value) for value in stored[: len(good)]] == [0] * len(good)
    cut_off = len(good) + wrong.index("[1, 2")  # a missing bracket is forgiven
    assert bad.rows == [row for row in range(len(good), len(good) + len(wrong)) if row != cut_off]
    assert stored[-3:] == [None] * 3
    assert loaded(column).shape == (len(good) + 1, 2)


def test_numbers_of_all_kinds() -> None:
    rows = [[1, 2], [3, 4]]
    for kind in (pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()):
        array = pa.array(
            [[np.float16(n) for n in row] if kind == pa.float16() else row for row in rows], pa.list_(kind)
        )
        assert loaded(prepared("vector", pa.chunked_array([array]))[2]).tolist() == rows
    decimals = pa.array([[decimal.Decimal(n) for n in row] for row in rows])
    assert loaded(prepared("vector", pa.chunked_array([decimals]))[2]).tolist() == rows
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(rows, np.float32))
    assert loaded(prepared("vector", pa.chunked_array([tensors]))[2]).tolist() == rows
    texts = pa.array(["1 2", "3 4"]).dictionary_encode()
    assert loaded(prepared("vector", pa.chunked_array([texts]))[2]).tolist() == rows


def test_empty_columns_and_only_nulls() -> None:
    for column in (pa.chunked_array([], pa.list_(pa.float32())), pa.chunked_array([[None, None]])):
        stored, bad, _ = prepared("vector", column)
        assert (stored, bad) == ([None] * len(column), [])
    assert load(Part("vector", pa.array([], pa.large_binary()))).shape == (0, 0)
    assert facts(Part("vector", pa.array([], pa.large_binary()))) == {}


def test_columns_of_other_types_are_problems() -> None:
    for values in ([1.0], [[["a"]]], [["a", "b"]], [b"bytes"], [[True]], [{"a": 1.0}]):
        with pytest.raises(CheckFailed, match="expected vectors"):
            prepared("vector", values)


def test_equal_vectors_are_one_item() -> None:
    _, _, column = prepared("vector", [[0.0, 1], [-0.0, 1], [1, 0]])
    items, [codes] = Items.from_columns([column], ["vector"])
    assert (len(items), codes.tolist()) == (2, [0, 0, 1])
    assert load(items.parts[1]).tolist() == [[0, 1], [1, 0]]
    assert load(items.parts[1], pa.array([1])).tolist() == [[1, 0]]


def test_loading_copies_nothing_and_supports_slices() -> None:
    _, _, column = prepared("vector", np.arange(12, dtype=np.float32).reshape(4, 3).tolist())
    values = column.combine_chunks()
    found = load(Part("vector", values.slice(1, 2)))
    assert found.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert not found.flags.owndata and not found.flags.writeable


def test_several_widths_are_an_error() -> None:
    with pytest.raises(RunError, match="vectors of 1, 2 numbers"):
        load(Part("vector", pa.array([bytes(4), bytes(8)], pa.large_binary())))


def test_facts_and_progress() -> None:
    seen: list[tuple[int, int]] = []
    column = pa.chunked_array([pa.array([[3.0, 4.0]] * 5)])
    stored = prepare_column("vector", column, Path(), pytest.fail, lambda *done: seen.append(done))
    assert seen[-1] == (5, 5)
    assert facts(Part("vector", stored.combine_chunks())) == {"vector_width": 2, "vector_length": "5 to 5"}
