from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.bad_rows import BadRows
from finetune.data.sources import ReadOptions
from finetune.data.sources import jsonl as jsonl_module
from finetune.data.sources.files import find_file
from finetune.data.sources.jsonl import JsonFile
from tests.data.sources.conftest import error_message, head_of, read, rows_of, tuples

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS: list[dict[str, Any]] = [
    {"query": "q1", "positives": ["a", "b"], "score": 1},
    {"query": "q2", "positives": [], "score": 0.5, "extra": {"x": [1]}},
    {"query": "q3"},
]
EXPECTED = [("q1", ["a", "b"], 1.0), ("q2", [], 0.5), ("q3", None, None)]
NAMES = ("query", "positives", "score")


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (lines(ROWS), "x.jsonl"),
        (lines(ROWS).rstrip(), "x.ndjson"),
        ("\n\n" + lines(ROWS).replace("\n", "\r\n\n"), "x.json"),
        ("\ufeff" + lines(ROWS), "x.txt"),
        (json.dumps(ROWS), "x.json"),
        (json.dumps(ROWS, indent=2), "x.json"),
        (" \n" + "\n".join(json.dumps(row, indent=1) for row in ROWS), "x.json"),
    ],
    ids=["lines", "no-end", "blank-lines", "bom", "array", "pretty-array", "pretty-objects"],
)
def test_json_in_all_forms(content, name, write):
    path = write(content, name)
    assert head_of(path).names == ["query", "positives", "score", "extra"]
    assert rows_of(path, *NAMES) == EXPECTED
    reading, _ = read(path, "query", "positives")
    assert [str(kind) for kind in reading.table.schema.types] == [
        "large_string",
        "large_list<item: large_string>",
    ]


def test_another_encoding(write):
    rows = [{"anchor": "qué"}, {"anchor": "été"}]
    for encoding in ("utf-16", "latin-1"):
        assert rows_of(write(lines(rows).encode(encoding), "x.jsonl"), encoding=encoding) == [("qué",), ("été",)]


BROKEN = (
    b'{"query": "q1", "score": 1}\n'
    b"{oops\n"
    b"\n"
    b'{"query": 7, "score": 1}\n'
    b'["query"]\n'
    b'{"query": "caf\xe9", "score": 1}\n'
    b'{"query": "\\ud800", "score": 1}\n'
    b'{"query": "q2", "score": 0.5} \n'
    b'{"query": "q3", "score": "high"}\n'
    b'{"query": "q4"'
)


def test_every_bad_line_is_reported_and_the_others_are_read(write):
    path = write(BROKEN, "x.jsonl")
    reading, bad = read(path, "query", "score")
    assert tuples(reading) == [("q1", 1.0), ("q2", 0.5)]
    assert reading.rows_read == 9
    assert [(row.line, row.column, row.kind) for row in bad.first] == [
        (2, None, "json"),
        (4, "query", "type"),
        (5, None, "json"),
        (6, None, "undecodable"),
        (7, "query", "type"),
        (9, "score", "type"),
        (10, None, "json"),
    ]
    assert [place.line for place in reading.locate(np.array([1, 0]))] == [8, 1]
    answer = error_message(path)
    for words in (
        "x.jsonl:2: is not valid JSON (expecting property name enclosed in double quotes): {oops",
        "x.jsonl:4: column 'query' is a number, in the other rows it is text: 7",
        'x.jsonl:5: is not a JSON object: ["query"]',
        "x.jsonl:6: has the byte 0xE9",
        "x.jsonl:9: column 'score' is text, in the other rows it is a number: high",
        "7 of 9 rows are bad.",
    ):
        assert words in answer


REFUSED = {
    "empty": (b" \n", ["is empty"]),
    "no object": (b"1\n2\n", ["there is no JSON object in it"]),
    "one object": (
        b'{"data": [{"a": 1}]}',
        ["holds a single JSON object, with the keys 'data'", "one object for each row"],
    ),
    "broken": (b"{oops\n", [":1: from here on it is not valid JSON", "{oops"]),
    "array cut off": (b'[{"a": "x"},\n {"a": "y"},\n {"a": "z', [":3: from here on it is not valid JSON"]),
    "latin-1": ('{"a": "é"}\n'.encode("latin-1"), ["the byte 0xE9, which is not utf-8", "data.encoding=cp1252"]),
    "utf-16": ('{"a": "é"}\n'.encode("utf-16"), ["byte-order mark of utf-16", "data.encoding=utf-16"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_read_are_one_problem(case, write):
    content, expected = REFUSED[case]
    answer = error_message(write(content, "x.json"))
    for words in expected:
        assert words in answer
    assert len(answer.splitlines()) == 1


@pytest.mark.parametrize("line", ["null", '{"a": "x"} null', " \t null {}"])
def test_a_null_in_place_of_an_object_is_a_bad_row(line, write):
    _, bad = read(write('{"a": "nullify"}\n' + line + '\n{"a": null}\n', "x.jsonl"), "a")
    assert [(row.line, row.kind) for row in bad.first] == [(2, "json")]


def test_types_that_widen_late_and_blocks(write, monkeypatch):
    monkeypatch.setattr("finetune.data.sources.json_text.BLOCK_BYTES", 5_000)
    rows: list[dict[str, Any]] = [{"a": f"t{i}", "n": i, "l": None, "s": {"x": None}} for i in range(3_000)]
    rows[2_000] |= {"n": 0.5, "l": ["x"], "s": {"x": "y"}}
    rows[2_500] |= {"l": [None]}
    path = write(lines(rows), "x.jsonl")
    reading, bad = read(path, "a", "n", "l", "s")
    assert not bad
    assert reading.table.column("n").to_pylist() == [row["n"] for row in rows]
    assert reading.table.column("l").to_pylist() == [row["l"] for row in rows]
    assert reading.table.column("s").to_pylist() == [row["s"] for row in rows]
    assert [place.line for place in reading.locate(np.array([0, 1_999, 2_999]))] == [1, 2_000, 3_000]


texts = st.text(st.characters(codec="utf-8"), max_size=6)
values = st.one_of(st.none(), texts)
rows = st.lists(
    st.fixed_dictionaries(
        {"a": values},
        optional={"l": st.none() | st.lists(values, max_size=3), "n": st.integers(-(2**53), 2**53) | st.none()},
    ),
    min_size=2,
    max_size=8,
)


@quick
@given(rows=rows, as_lines=st.booleans())
def test_written_json_is_read_back(rows, as_lines, write):
    path = write(lines(rows) if as_lines else json.dumps(rows), "x.json")
    reading, bad = read(path, *head_of(path).names)
    assert not bad
    for name, column in zip(reading.table.column_names, reading.table.columns, strict=True):
        assert column.to_pylist() == [row.get(name) for row in rows]


pieces = st.sampled_from(
    ['{"a":', '"x"', "1", "0.5", "true", "null", '["y"]', "[1]", '{"b":2}', "}", "\n", " ", ",", "é", '"']
)
bodies = st.lists(pieces, max_size=30).map("".join) | st.lists(
    st.sampled_from(
        ['{"a":"x"}', '{"a":1}', '{"a":1.5}', '{"a":["x"]}', '{"a":null}', "{}", '{"a":"x","a":"y"}', '{"b":1}', ""]
    ),
    max_size=6,
).map("\n".join)


@quick
@given(body=bodies)
def test_fast_and_strict_reading_agree(body, write, monkeypatch):
    path = write('{"a":"first"}\n' + body, "x.jsonl")

    def outcome() -> Any:
        bad = BadRows()
        reading = JsonFile(find_file(path, "f", "data.path"), ReadOptions()).read(["a"], bad)
        lines = [place.line for place in reading.locate(np.arange(reading.table.num_rows))]
        return reading.table.to_pydict(), str(reading.table.schema), lines, reading.rows_read, bad.first

    fast = outcome()
    with monkeypatch.context() as patch:
        patch.setattr(jsonl_module, "_read_block", lambda block, types: (block, None))
        assert outcome() == fast


def test_ids_of_many_rows_that_are_read_one_by_one_become_texts(write):
    rows = [{"_id": number, "text": f"t{number}"} for number in range(jsonl_module.CHUNK_ROWS + 2)]
    rows[-1]["_id"] = "last"
    path = write(json.dumps(rows), "x.jsonl")
    reading = JsonFile(find_file(path, "f", "data.path"), ReadOptions(), ids=("_id",)).read(["_id"], BadRows())
    assert reading.table["_id"].to_pylist() == [str(row["_id"]) for row in rows]
    assert reading.rows_read == len(rows)


ARRAYS = [["q1", "a1", 1], ["q2", "a2", 0.5], ["q3", None, 0]]


@pytest.mark.parametrize(
    "content",
    [lines(ARRAYS), lines(ARRAYS).replace("\n", "\r\n\n"), json.dumps(ARRAYS), json.dumps(ARRAYS, indent=1)],
    ids=["lines", "blank-lines", "array", "pretty"],
)
def test_rows_that_are_arrays_are_columns_without_a_header(content, write):
    path = write(content, "x.jsonl")
    head = head_of(path)
    assert (head.names, head.named, head.sample) == (["1", "2", "3"], False, [tuple(row) for row in ARRAYS])
    assert rows_of(path) == [tuple(row) for row in ARRAYS]
    assert rows_of(path, "3", "1") == [(row[2], row[0]) for row in ARRAYS]


def test_a_first_array_of_names_is_a_header(write):
    path = write('["question", "answer"]\n["q1", "a1"]\n["q2", ["a2", "a3"]]\n["q3", "a3"]\n', "x.jsonl")
    assert (head_of(path).names, head_of(path).named) == (["question", "answer"], True)
    reading, bad = read(path)
    assert tuples(reading) == [("q1", "a1"), ("q3", "a3")]
    assert [(row.line, row.column, row.kind) for row in bad.first] == [(3, "answer", "type")]
    assert head_of(path, header=False).names == ["1", "2"]
    assert head_of(write('["a", "b"]\n["c", "d"]\n', "y.jsonl"), header=True).names == ["a", "b"]


def test_arrays_of_another_width_and_other_values_are_bad_rows(write):
    path = write('["q1", "a1"]\n["q2"]\n{"q": 1}\n{oops\n["q3", "a3"]\n', "x.jsonl")
    reading, bad = read(path)
    assert tuples(reading) == [("q1", "a1"), ("q3", "a3")]
    assert [(row.line, row.kind) for row in bad.first] == [(2, "array"), (3, "array"), (4, "json")]
    assert [place.line for place in reading.locate(np.arange(2))] == [1, 5]
    assert 'x.jsonl:2: has 1 values, the other rows have 2: ["q2"]' in error_message(path)
