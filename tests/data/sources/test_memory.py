"""Tables in memory: pandas, Polars, Arrow, columns, rows, open files, data sets."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.sources import ReadOptions, open_source
from tests.data.sources.conftest import error_message, head_of, read, rows_of, tuples

COLUMNS: dict[str, list[Any]] = {"anchor": ["a", "b", "c"], "positive": ["x", None, "z"], "score": [1.0, 0.5, None]}
ROWS = [("a", "x", 1.0), ("b", None, 0.5), ("c", "z", None)]
LISTED = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]


def as_dicts() -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value is not None} for row in LISTED]


THINGS: dict[str, Any] = {
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "pandas, another index": lambda: pd.DataFrame(COLUMNS, index=[5, 5, 7]),
    "pandas of objects": lambda: pd.DataFrame(COLUMNS, dtype=object),
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars, lazy": lambda: pl.LazyFrame(COLUMNS),
    "arrow": lambda: pa.table(COLUMNS),
    "arrow batch": lambda: pa.RecordBatch.from_pydict(COLUMNS),
    "arrow stream": lambda: pa.table(COLUMNS).to_reader(),
    "columns": lambda: COLUMNS,
    "columns of arrays": lambda: {
        "anchor": np.array(COLUMNS["anchor"]),
        "positive": pa.array(COLUMNS["positive"]),
        "score": pd.Series(COLUMNS["score"]),
    },
    "rows": lambda: LISTED,
    "rows that lack keys": as_dicts,
    "a data set": lambda: datasets.Dataset.from_dict(COLUMNS),
    "splits": lambda: datasets.DatasetDict(
        {"test": datasets.Dataset.from_dict({"x": [1]}), "train": datasets.Dataset.from_dict(COLUMNS)}
    ),
    "a shuffled data set": lambda: datasets.Dataset.from_dict(
        {name: [values[2], "gone" if name != "score" else 9.0, *values[:2]] for name, values in COLUMNS.items()}
    ).select([2, 3, 0]),
}


@pytest.mark.parametrize("case", THINGS)
def test_tables_in_memory_have_the_same_rows(case):
    thing = THINGS[case]()
    source = open_source(thing, ReadOptions())
    head = source.head()
    assert head.names == list(COLUMNS)
    assert head.sample == ROWS
    assert source.fingerprint() == source.fingerprint()
    from finetune.data.bad_rows import BadRows

    reading = source.read(["score", "anchor", "positive"], BadRows())
    assert [str(kind) for kind in reading.table.schema.types] == ["double", "large_string", "large_string"]
    assert tuples(reading) == [(score, anchor, positive) for anchor, positive, score in ROWS]
    assert [place.line for place in reading.locate(np.array([2, 0]))] == [3, 1]


def test_the_fingerprint_is_of_the_content():
    prints = [open_source(thing, ReadOptions()).fingerprint() for thing in (COLUMNS, {**COLUMNS}, {"anchor": ["a"]})]
    assert prints[0] == prints[1] != prints[2]
    odd = [open_source({"x": [1, value]}, ReadOptions()).fingerprint() for value in ("a", "b")]
    assert odd[0] != odd[1]


def test_a_frame_without_names_has_numbers():
    head = head_of(pd.DataFrame([["a", "b"], ["c", "d"]]))
    assert (head.names, head.named) == (["1", "2"], False)
    assert rows_of(pd.DataFrame([["a", "b"], ["c", "d"]]), "2") == [("b",), ("d",)]


def test_vectors_and_tensors_are_lists():
    import torch

    for values in (np.arange(6.0).reshape(3, 2), torch.arange(6.0).reshape(3, 2), [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]):
        reading, _ = read({"vector": values})
        assert pa.types.is_large_list(reading.table.schema.field(0).type)
        assert tuples(reading) == [([0.0, 1.0],), ([2.0, 3.0],), ([4.0, 5.0],)]


def test_values_of_another_kind_are_bad_rows():
    rows = [{"a": "x", "n": 1}, {"a": 7, "n": 2}, "no row", {"a": "y", "n": "?"}, {"a": "z", "n": 0.5}]
    reading, bad = read(rows)
    assert tuples(reading) == [("x", 1.0), ("z", 0.5)]
    assert reading.rows_read == 5
    assert sorted((row.line, row.column, row.kind) for row in bad.first if row.column) == [
        (2, "a", "type"),
        (4, "n", "type"),
    ]
    assert [(row.line, row.what) for row in bad.first if not row.column] == [(3, "is of type str, not a dict")]
    assert [place.line for place in reading.locate(np.array([0, 1]))] == [1, 5]
    frame, bad = read(pd.DataFrame({"a": ["x", 7, "y"]}))
    assert tuples(frame) == [("x",), ("y",)]
    assert "the pandas frame:2: column 'a' is a number, in the other rows it is text: 7" in error_message(
        pd.DataFrame({"a": ["x", 7, "y"]})
    )


def test_a_column_that_is_not_read_may_hold_anything():
    rows = [{"a": "x", "other": object()}, {"a": "y", "other": 1}]
    reading, bad = read(rows, "a")
    assert (tuples(reading), len(bad)) == ([("x",), ("y",)], 0)


REFUSED: dict[str, Any] = {
    "a number": (5, "an object of type int holds no data that can be read"),
    "nothing": (None, "an object of type NoneType holds no data"),
    "an empty list": ([], "the list of rows holds nothing, and no dict"),
    "a list of numbers": ([1, 2], "holds a int, and no dict"),
    "columns of other lengths": ({"a": [1], "b": [1, 2]}, "differ in length: 'a' has 1, 'b' has 2 rows"),
    "no columns": ({"a": "text"}, "'a' in the dict of columns is not a column, but of type str"),
    "an empty dict": ({}, "the dict of columns has no column"),
    "a stream": (
        datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(),
        "the data set is a stream (IterableDataset). Load it without streaming=True.",
    ),
    "splits without train": (
        datasets.DatasetDict({name: datasets.Dataset.from_dict(COLUMNS) for name in ("dev", "test")}),
        "'the data set' has no split 'train', but 'dev', 'test'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_object_that_is_not_a_table_is_one_problem(case):
    thing, expected = REFUSED[case]
    answer = error_message(thing)
    assert expected in answer
    assert len(answer.splitlines()) == 1


CONTENT = "question,answer\nqué,a1\nq2,a2\n"


@pytest.mark.parametrize(
    "handle",
    [
        lambda path: path.open("rb"),
        lambda path: path.open(encoding="latin-1"),
        lambda path: io.BytesIO(CONTENT.encode("latin-1")),
        lambda path: io.StringIO(CONTENT),
    ],
    ids=["binary", "text", "bytes", "string"],
)
def test_an_open_file_is_read_once(handle, write):
    path = write(CONTENT.encode("latin-1"))
    source = handle(path)
    found = open_source(source, ReadOptions(encoding="latin-1"))
    from finetune.data.bad_rows import BadRows

    for _ in range(2):
        assert tuples(found.read(found.head().names, BadRows())) == [("qué", "a1"), ("q2", "a2")]
    assert source.read() in ("", b"")


def test_an_open_file_of_another_format(write, tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.table(COLUMNS), tmp_path / "x")
    with (tmp_path / "x").open("rb") as stream:
        assert rows_of(stream) == ROWS
    assert rows_of(io.StringIO('{"a": "x"}\n{"a": "y"}\n')) == [("x",), ("y",)]


def test_an_open_file_whose_reading_fails(write):
    stream = write(CONTENT).open()
    stream.close()
    assert "cannot be read: I/O operation on closed file" in error_message(stream)


# Arrow itself imports pandas where it is installed.
def test_reading_rows_imports_none_of_their_libraries():
    code = (
        "import sys; from finetune.data.sources import open_source, ReadOptions\n"
        "from finetune.data.bad_rows import BadRows\n"
        "open_source([{'a': 'x'}], ReadOptions()).read(['a'], BadRows())\n"
        "print({'polars', 'datasets', 'fsspec', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


values = st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=5), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(a=values, b=values, make=st.sampled_from([pd.DataFrame, pl.DataFrame, pa.table, dict]))
def test_any_texts_come_back(a, b, make):
    assert rows_of(make({"a": a, "b": b})) == list(zip(a, b, strict=True))


def test_the_hash_is_not_of_memory_layout():
    table = pa.table({"a": [str(zlib.crc32(bytes([i]))) for i in range(100)]})
    parts = pa.concat_tables([table.slice(0, 30), table.slice(30)])
    assert len({open_source(each, ReadOptions()).fingerprint() for each in (table, parts)}) == 1
