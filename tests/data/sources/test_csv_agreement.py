"""Fast and strict reading agree on every file that the fast reader accepts."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune.data.bad_rows import BadRows
from finetune.data.sources import ReadOptions
from finetune.data.sources.csv_fast import read_fast
from finetune.data.sources.csv_head import CsvHead, read_head
from finetune.data.sources.csv_strict import StrictReading, line_numbers, read_strict
from finetune.data.sources.csv_text import Dialect
from finetune.data.sources.files import find_file
from finetune.errors import CheckFailed
from tests.data.sources.conftest import rows_of

NAMES = ["question", "answer", "negative"]
LONGEST = 12
quick = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DIALECTS = [Dialect(","), Dialect(",", "'"), Dialect(",", '"', "\\"), Dialect("\t", "")]

# Few characters, most of them with a meaning in CSV, so that odd files come up often.
pieces = st.sampled_from(
    ["a", "b", "é", ",", '"', '""', "'", "\\", "\t", "\n", "\r", "\r\n", " ", "\0", "\xa0", ";", "x" * 13]
)
cells = st.lists(pieces, max_size=3).map("".join)
# Rows of the right width most of the time: text alone is nearly always ragged, and Arrow then refuses it at once.
bodies = st.one_of(
    st.lists(pieces, max_size=30).map("".join),
    st.lists(st.tuples(cells, cells, cells).map(",".join), max_size=4).map("\n".join),
)
texts = st.text(st.sampled_from('ab ,"\n\ré\u2003'), max_size=6)
tables = st.lists(st.tuples(texts, texts, texts, texts), min_size=1, max_size=6)


def head_of(path: Path, dialect: Dialect | None = None, **changes: Any) -> CsvHead | None:
    changes = {"delimiter": ",", "header": True} | changes
    try:
        head = read_head(find_file(path, "f", "data.path"), ReadOptions(**changes))
    except CheckFailed:
        return None
    names = NAMES if not set(NAMES) <= set(head.names) else head.names
    return replace(head, dialect=dialect or head.dialect, names=names, named=True)


def both(head: CsvHead) -> tuple[pa.Table | None, StrictReading, BadRows]:
    bad = BadRows()
    fast = read_fast(head, NAMES, LONGEST)
    strict = read_strict(head, NAMES, LONGEST, bad)
    if fast is not None:
        table, by_line = fast
        assert len(bad) == 0
        assert strict.rows_read == table.num_rows
        assert strict.table.to_pydict() == table.to_pydict()
        assert line_numbers(head, range(table.num_rows), by_line) == strict.lines.tolist()
    return fast[0] if fast else None, strict, bad


@quick
@example(body=',,""\\a', dialect=Dialect(",", '"', "\\"), sep_line="")
@example(body=',"a,"\\a,', dialect=Dialect(",", '"', "\\"), sep_line="")
@given(body=bodies, dialect=st.sampled_from(DIALECTS), sep_line=st.sampled_from(["", "sep=,\n", '"sep=;"\r\n']))
def test_on_arbitrary_text(body, dialect, sep_line, tmp_path):
    path = tmp_path / "f.csv"
    separator = dialect.delimiter
    path.write_bytes(f"{sep_line}{separator.join(NAMES)}\n{body.replace(',', separator)}".encode())
    if head := head_of(path, dialect, delimiter=separator):
        both(head)


@quick
@given(body=st.binary(max_size=40))
def test_on_arbitrary_bytes(body, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(b"question,answer,negative\na,b,c\n" + body)
    if head := head_of(path):
        both(head)


@quick
@given(
    table=tables,
    # The writer leaves a lone CR bare where it is no line end of its own.
    dialect=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n")]),
)
def test_written_csv_is_read_back(table, dialect, tmp_path):
    quoting, end = dialect
    path = tmp_path / "f.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=quoting, lineterminator=end)
        writer.writerows([("question", "other", "answer", "negative"), *table])
    head = head_of(path)
    assert head is not None
    fast, strict, bad = both(head)
    assert len(bad) == 0
    expected = [(question, answer, negative) for question, _, answer, negative in table]
    assert list(zip(*strict.table.to_pydict().values(), strict=True)) == expected
    assert rows_of(path, *NAMES) == expected
    # A clean file is read the fast way, or the fast way would be for nothing; a quote and a line end in one cell
    # are left to the strict reader.
    doubtful = any('"' in cell and ("\n" in cell or "\r" in cell) for row in table for cell in (row[0], *row[2:]))
    assert (fast is not None) == (not doubtful)


@quick
@given(
    table=st.lists(st.tuples(*[st.text(st.sampled_from("ab ,;|\t'\"é."), max_size=8)] * 2), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;|\t"),
)
def test_a_header_with_known_names_decides_the_dialect_of_written_csv(table, delimiter, tmp_path):
    path = tmp_path / "f.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([("question", "answer"), *table])
    assert rows_of(path) == table


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "utf-8-sig"])
@pytest.mark.parametrize("rows", [1, 3, 60_000])
def test_over_block_borders_and_encodings(encoding, rows, tmp_path):
    path = tmp_path / "f.csv"
    text = "question,answer,negative\r\n" + "".join(f'é{i},"a\r\n{i}","b"""\r\n' for i in range(rows))
    path.write_bytes(text.encode(encoding))
    head = head_of(path, encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    assert head is not None
    fast, strict, _ = both(head)
    assert fast is not None
    assert strict.rows_read == rows


@quick
@given(body=bodies)
def test_rows_and_lines_are_those_of_pythons_csv_module(body, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(f"question,answer,negative\na,b,c\n{body}".encode())
    if not (head := head_of(path, Dialect(","))):
        return
    expected = [row for row in csv.reader(io.StringIO(body, newline="")) if row]
    bad = BadRows()
    strict = read_strict(head, NAMES, LONGEST, bad)
    assert strict.rows_read == len(expected) + 1
    lines = body.count("\n") + body.count("\r") - body.count("\r\n") + 3
    assert all(3 <= row.line <= lines for row in bad.first)


def test_an_open_quote_is_detected_though_arrow_accepts_it(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text('question,answer,negative\na,b,c\nd,e,"f')
    assert pa.csv.read_csv(path).num_rows == 2
    head = head_of(path)
    assert head is not None
    fast, _, bad = both(head)
    assert fast is None
    assert [(row.kind, row.line) for row in bad.first] == [("unclosed", 3)]


def test_a_late_bad_row_is_found_and_valid_rows_keep_their_lines(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("question,answer,negative\n" + "a,b,c\n" * 250_000 + "d,e\n" + "f,g,h\n" * 3)
    head = head_of(path)
    assert head is not None
    fast, strict, bad = both(head)
    assert fast is None
    assert [(row.kind, row.line) for row in bad.first] == [("ragged", 250_002)]
    assert np.asarray(strict.lines)[[0, 249_999, 250_000]].tolist() == [2, 250_001, 250_003]
