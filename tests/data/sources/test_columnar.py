from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from finetune.errors import CheckFailed
from tests.data.sources.conftest import error_message, head_of, read, rows_of

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TABLE = pa.table(
    {
        "query": pa.array(["q1", "q2", None]),
        "positives": pa.array([["a", "b"], [], None]),
        "label": pa.array(["x", "y", "x"]).dictionary_encode(),
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
        "image": pa.array([{"bytes": b"1", "path": None}] * 3),
        "score": pa.array([1, 2, 3], pa.int8()),
    }
)


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=2)


def write_file(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS = {
    "x.parquet": write_parquet,
    "x.arrow": write_file,
    "stream.arrow": write_stream,
    "x.feather": lambda table, path: feather.write_feather(table, str(path), compression="zstd"),
    "no suffix": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_columns_are_read_in_canonical_types(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](TABLE, path)
    head = head_of(path)
    assert head.names == TABLE.column_names
    assert head.sample[0] == tuple(TABLE.to_pylist()[0].values())
    reading, bad = read(path)
    assert not bad
    assert reading.table.to_pylist() == TABLE.to_pylist()
    assert [str(kind) for kind in reading.table.schema.types] == [
        "large_string",
        "large_list<item: large_string>",
        "large_string",
        "large_list<item: float>",
        "struct<bytes: binary, path: null>",
        "int8",
    ]
    assert [(place.file, place.line) for place in reading.locate(np.array([2, 0]))] == [(str(path), 3), (str(path), 1)]


@pytest.mark.parametrize("name", WRITERS)
def test_only_the_requested_columns_are_read_in_the_requested_order(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](TABLE, path)
    assert read(path, "score", "query")[0].table.to_pydict() == TABLE.select(["score", "query"]).to_pydict()


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "stream.arrow", "x.feather"])
def test_an_incomplete_file_is_one_problem_that_names_it(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](pa.table({"query": [f"text {i}" * 20 for i in range(500)]}), path)
    content = path.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 12):
        path.write_bytes(content[:size])
        answer = error_message(path)
        assert answer.startswith(f"{path}: is a damaged or incomplete ")
        assert len(answer.splitlines()) == 1
        assert "Copy or download it again." in answer


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "stream.arrow"])
def test_damaged_bytes_are_reported_or_harmless(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](pa.table({"query": [f"text {i}" for i in range(50)], "score": list(range(50))}), path)
    content = path.read_bytes()

    @settings(max_examples=300, deadline=None)
    @given(place=st.integers(0, len(content) - 1), value=st.integers(0, 255))
    def damage(place: int, value: int) -> None:
        path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        try:
            read(path)
        except CheckFailed as failed:
            assert len(failed.problems) == 1

    damage()


def test_a_file_with_the_suffix_of_another_format(write):
    message = error_message(write(bytes(500), "x.parquet"))
    assert "x.parquet: is not a Parquet file, although its name says so" in message
    assert "data.format=csv" in error_message(write("question,answer\na,b\n", "y.csv"), format="parquet")
    assert "Set data.format=jsonl." in error_message(write('{"a": 1}\n{"a": 2}', "y.jsonl"), format="arrow")


def test_a_parquet_file_under_another_format(tmp_path):
    write_parquet(TABLE, tmp_path / "x.csv")
    assert "looks like Parquet. Set data.format=parquet." in error_message(tmp_path / "x.csv", format="csv")
    assert head_of(tmp_path / "x.csv").names == TABLE.column_names


def test_repeated_names_are_a_problem(tmp_path):
    write_file(pa.table([pa.array(["a"]), pa.array(["b"])], names=["x", "x"]), tmp_path / "x.arrow")
    assert "has the name 'x' more than once" in error_message(tmp_path / "x.arrow")


def test_a_small_file_that_expands_without_limit_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.sources.files.FREE_BYTES", 1 << 20)
    pq.write_table(pa.table({"a": pa.array(["x" * 1000] * 100_000).dictionary_encode()}), tmp_path / "x.parquet")
    assert "grows to more than 250 times its size when unpacked" in error_message(tmp_path / "x.parquet")


columns = st.fixed_dictionaries(
    {
        "text": st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=5), min_size=3, max_size=3),
        "list": st.lists(st.none() | st.lists(st.none() | st.text("ab", max_size=2)), min_size=3, max_size=3),
        "number": st.lists(st.none() | st.floats(allow_nan=False), min_size=3, max_size=3),
    }
)
kinds: Any = st.sampled_from(
    [(pa.string(), pa.list_(pa.string())), (pa.large_string(), pa.large_list(pa.large_string()))]
)


@quick
@given(values=columns, kinds=kinds, name=st.sampled_from(sorted(WRITERS)))
def test_written_arrow_data_is_read_back(values, kinds, name, tmp_path):
    text, texts = kinds
    table = pa.table(
        {
            "text": pa.array(values["text"], text),
            "list": pa.array(values["list"], texts),
            "number": pa.array(values["number"], pa.float64()),
        }
    )
    WRITERS[name](table, tmp_path / name)
    assert rows_of(tmp_path / name) == list(zip(values["text"], values["list"], values["number"], strict=True))
