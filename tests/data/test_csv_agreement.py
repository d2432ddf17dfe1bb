"""Arrow's fast reading and the careful one agree on every file on which the fast one gives an answer."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.csv_careful import CarefulReading, read_carefully
from finetune.data.csv_fast import read_fast
from finetune.data.csv_head import Head, read_head
from finetune.data.roles import Roles
from finetune.errors import CheckFailed

ROLES = Roles("question", "answer", ("negative",))
LONGEST = 12
quick = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Few characters, most of them with a meaning in CSV, so that odd files come up often.
pieces = st.sampled_from(["a", "b", "é", ",", '"', '""', "\n", "\r", "\r\n", " ", "\0", "\xa0", ";", "x" * 13])
cells = st.lists(pieces, max_size=3).map("".join)
# Rows of the right width most of the time: text alone is nearly always ragged, and Arrow then refuses it at once.
bodies = st.one_of(
    st.lists(pieces, max_size=30).map("".join),
    st.lists(st.tuples(cells, cells, cells).map(",".join), max_size=4).map("\n".join),
)
texts = st.text(st.sampled_from('ab ,"\n\ré\u2003'), max_size=6)
tables = st.lists(st.tuples(texts, texts, texts, texts), min_size=1, max_size=6)


def head_of(path: Path, **dialect: Any) -> Head | None:
    try:
        return read_head(path, "f", dialect.get("delimiter", ","), dialect.get("encoding", "utf-8"))
    except CheckFailed:
        return None


def both(path: Path, head: Head) -> tuple[list[Any] | None, CarefulReading]:
    return read_fast(head, ROLES, LONGEST), read_carefully(head, ROLES, LONGEST)


def agree(fast: list[Any] | None, careful: CarefulReading) -> None:
    if fast is None:
        return
    assert careful.bad_rows == 0
    assert careful.rows_read == len(fast[0])
    assert [column.to_pylist() for column in fast] == [column.to_pylist() for column in careful.columns]


@quick
@given(body=bodies)
def test_on_arbitrary_text(body, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(f"question,answer,negative\n{body}".encode())
    if head := head_of(path):
        agree(*both(path, head))


@quick
@given(body=st.binary(max_size=40))
def test_on_arbitrary_bytes(body, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(b"question,answer,negative\na,b,c\n" + body)
    if head := head_of(path):
        agree(*both(path, head))


@quick
@given(
    table=tables,
    # The writer leaves a lone CR bare where it is no line end of its own.
    dialect=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n")]),
)
def test_what_a_csv_writer_wrote_is_read_back(table, dialect, tmp_path):
    quoting, end = dialect
    path = tmp_path / "f.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=quoting, lineterminator=end)
        writer.writerows([("question", "other", "answer", "negative"), *table])
    head = head_of(path)
    assert head is not None
    fast, careful = both(path, head)
    agree(fast, careful)
    good = [
        (question, answer, negative if negative.strip() else None)
        for question, _, answer, negative in table
        if question.strip() and answer.strip() and answer not in (question, negative)
    ]
    assert list(zip(*(column.to_pylist() for column in careful.columns), strict=True)) == good
    # A clean file is read the fast way, or the fast way would be for nothing; a quote and a line end in one cell
    # are left to the careful reader.
    doubtful = any('"' in cell and ("\n" in cell or "\r" in cell) for row in table for cell in (row[0], *row[2:]))
    assert (fast is not None) == (len(good) == len(table) and not doubtful)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "utf-8-sig"])
@pytest.mark.parametrize("rows", [1, 3, 60_000])
def test_over_block_borders_and_encodings(encoding, rows, tmp_path):
    path = tmp_path / "f.csv"
    text = "question,answer,negative\r\n" + "".join(f'é{i},"a\r\n{i}","b"""\r\n' for i in range(rows))
    path.write_bytes(text.encode(encoding))
    head = head_of(path, encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    assert head is not None
    fast, careful = both(path, head)
    assert fast is not None
    agree(fast, careful)
    assert careful.rows_read == rows


@quick
@given(body=bodies)
def test_rows_and_lines_are_those_of_pythons_csv_module(body, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(f"question,answer,negative\na,b,c\n{body}".encode())
    if not (head := head_of(path)):
        return
    reader = csv.reader(io.StringIO(body, newline=""))
    expected = [row for row in reader if row]
    careful = read_carefully(head, ROLES, LONGEST)
    assert careful.rows_read == len(expected) + 1
    lines = body.count("\n") + body.count("\r") - body.count("\r\n") + 3
    assert all(3 <= fault.line <= lines for fault in careful.faults)


def test_an_open_quote_is_seen_though_arrow_accepts_it(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text('question,answer,negative\na,b,c\nd,e,"f')
    assert pa.csv.read_csv(path).num_rows == 2
    head = head_of(path)
    assert head is not None
    fast, careful = both(path, head)
    assert fast is None
    assert [(fault.kind, fault.line) for fault in careful.faults] == [("unclosed", 3)]
