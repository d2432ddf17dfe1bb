"""Several files, patterns, compressed files, and files that change."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.bad_rows import BadRows
from finetune.data.sources import ReadOptions, open_source
from finetune.errors import CheckFailed
from tests.conftest import ROOT
from tests.data.sources.conftest import error_message, head_of, read, rows_of, tuples

PAIRS = "question,answer\nq1,a1\nq2,a2\nq3,a3\n"
EXPECTED = [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


PACKED = {"gz": gzip.compress, "zst": zstd, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("named", [True, False])
def test_compressed_files_are_read_as_their_content(suffix, named, write):
    pack = PACKED[suffix]
    ends = f".{suffix}" if named else ""
    assert rows_of(write(pack(PAIRS.encode()), f"pairs.csv{ends}")) == EXPECTED
    lines = "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in EXPECTED)
    assert rows_of(write(pack(lines.encode()), f"pairs.jsonl{ends}")) == EXPECTED
    broken = write(pack(PAIRS.encode() + b"q4\nq5,a5\n"), f"broken.csv{ends}")
    reading, bad = read(broken)
    assert ([row.line for row in bad.first], reading.table.num_rows) == ([5], 4)
    assert [place.line for place in reading.locate(np.array([3]))] == [6]


def test_several_members_in_one_compressed_file(write):
    parts = PAIRS[:22].encode(), PAIRS[22:].encode()
    for suffix, pack in PACKED.items():
        assert rows_of(write(b"".join(map(pack, parts)), f"pairs.csv.{suffix}")) == EXPECTED


@pytest.mark.parametrize("suffix", PACKED)
def test_incomplete_or_damaged_compressed_files_are_one_problem(suffix, write):
    content = PACKED[suffix](("question,answer\n" + "".join(f"q{i},{i * i}\n" for i in range(50_000))).encode())
    damaged = content[: len(content) // 2] + b"\0" * 64 + content[len(content) // 2 + 64 :]
    # The checksum of zstd is optional, and Arrow writes none.
    for cut_off in (content[:-9], *([damaged] if suffix != "zst" else [])):
        answer = error_message(write(cut_off, f"pairs.csv.{suffix}"))
        assert f"pairs.csv.{suffix}: its" in answer
        assert "data are damaged or incomplete. Copy or download the file again." in answer
        assert len(answer.splitlines()) == 1


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, zstd])
@pytest.mark.parametrize(
    "content", ["question,answer\n" + "a,b\n" * 3_000_000, "question,answer\na," + "b" * 12_000_000]
)
def test_a_decompression_bomb_is_a_problem(pack, content, write, monkeypatch):
    monkeypatch.setattr("finetune.data.sources.files.FREE_BYTES", 4 << 20)
    monkeypatch.setattr("finetune.data.sources.files.MOST_EXPANSION", 100)
    answer = error_message(write(pack(content.encode()), "pairs.csv.gz"), max_cell_characters=100_000_000)
    assert "grows to more than 100 times its size when unpacked" in answer
    assert len(answer.splitlines()) == 1


def test_a_decompression_bomb_of_gigabytes_takes_little_memory(tmp_path):
    path = tmp_path / "bomb.csv.bz2"
    with path.open("wb") as file:
        packer = bz2.BZ2Compressor()
        file.write(packer.compress(b"question,answer\nq,"))
        for _ in range(600):
            file.write(packer.compress(b"a" * (1 << 20)))
        file.write(packer.flush())
    code = (
        "import resource, sys; from tests.data.sources.conftest import error_message\n"
        "import pyarrow.csv, pyarrow.compute; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"print(error_message({str(path)!r})); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    answer, grown = done.stdout.strip().rsplit("\n", 1)
    assert "grows to more than 250 times its size" in answer or "does not end within 64 million" in answer
    assert int(grown) < 700 * 1024


def test_several_files_and_patterns(write, tmp_path, monkeypatch):
    write("question,answer\nq1,a1\n", "parts/a.csv")
    write("answer\tquestion\na2\tq2\n", "parts/b.tsv")
    write('{"answer": "a3", "question": "q3"}\n', "parts/deep/c.jsonl")
    monkeypatch.chdir(tmp_path)
    assert rows_of(["parts/a.csv", "parts/b.tsv", "parts/deep/c.jsonl"]) == EXPECTED
    assert rows_of("parts/*.?sv") == EXPECTED[:2]
    reading, _ = read("parts/**/*.*", "question")
    assert tuples(reading) == [("q1",), ("q2",), ("q3",)]
    places = [str(place) for place in reading.locate(np.array([2, 0, 1]))]
    assert places == ["parts/deep/c.jsonl:1", "parts/a.csv:2", "parts/b.tsv:2"]
    assert "no file matches 'parts/*.txt'" in error_message("parts/*.txt")
    write(PAIRS, "parts/[a].csv")
    assert rows_of("parts/[a].csv") == EXPECTED  # a file of that very name


def test_bad_rows_of_several_files_name_their_file(write, tmp_path, monkeypatch):
    write("question,answer\nq1,a1\nbroken\nq2,a2\n", "a.csv")
    write("question,answer\nq3,a3\n", "b.csv")
    monkeypatch.chdir(tmp_path)
    reading, bad = read(["a.csv", "b.csv"])
    assert [(row.file, row.line) for row in bad.first] == [("a.csv", 3)]
    assert reading.rows_read == 4
    assert [str(place) for place in reading.locate(np.array([1, 2]))] == ["a.csv:4", "b.csv:2"]


DIFFERENT = {
    "a name": ("question,response\nq,a\n", "lacks 'answer' and also has 'response'"),
    "more columns": ("question,answer,score\nq,a,1\n", "also has 'score'"),
    "no header": ("1,2\n3,4\n", "has other columns than 'a.csv'"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_the_file_with_other_columns_is_named(case, write, tmp_path, monkeypatch):
    content, expected = DIFFERENT[case]
    write(PAIRS, "a.csv")
    write(content, "b.csv")
    monkeypatch.chdir(tmp_path)
    answer = error_message(["a.csv", "b.csv"])
    assert answer.startswith("b.csv: has other columns than 'a.csv'")
    assert expected in answer


def test_files_with_too_few_rows_are_read_like_the_first(write, tmp_path, monkeypatch):
    write("How are you?;Fine, thanks.\nWho is it?;Me.\n", "a.csv")
    write("yes;no\n", "b.csv")
    monkeypatch.chdir(tmp_path)
    assert rows_of("?.csv")[-1] == ("yes", "no")


def test_columns_of_other_types_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, values in (("a", [1]), ("b", [0.5]), ("c", [["x"]])):
        pq.write_table(pa.table({"score": values}), f"{name}.parquet")
    assert rows_of(["a.parquet", "b.parquet"]) == [(1.0,), (0.5,)]
    answer = error_message("*.parquet")
    assert "c.parquet: the column 'score' is of type large_list<item: large_string>, in 'a.parquet'" in answer


def test_all_missing_files_are_reported_at_once(tmp_path):
    assert error_message([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]).count("there is no file") == 2


@pytest.mark.parametrize(("name", "content"), [("x.csv", PAIRS), ("x.jsonl", '{"a": "x"}\n{"a": "y"}\n')])
def test_a_file_that_changes_is_a_problem(name, content, write):
    path = write(content, name)
    source = open_source(str(path), ReadOptions())
    names = source.head().names
    path.write_text(content + content.splitlines()[1] + "\n")
    for look in (lambda: source.read(names, BadRows()), source.fingerprint):
        with pytest.raises(CheckFailed, match="was changed while it was being read"):
            look()
    source = open_source(str(path), ReadOptions())
    source.read(names, BadRows())
    path.unlink()
    with pytest.raises(CheckFailed):
        source.fingerprint()


def test_a_replaced_file_of_the_same_size_and_time_is_a_problem(write):
    path = write(PAIRS)
    source = open_source(str(path), ReadOptions())
    other = write(PAIRS.replace("q1", "q9"), "other.csv")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    with pytest.raises(CheckFailed, match="was changed"):
        source.read(["question"], BadRows())


def test_the_fingerprint_depends_on_content_and_options(write):
    one, same, other = write(PAIRS, "a.csv"), write(PAIRS, "b.csv"), write(PAIRS + "q4,a4\n", "c.csv")

    def fingerprint(*paths: Path, **changes: object) -> str:
        return open_source([str(path) for path in paths], ReadOptions(**changes)).fingerprint()

    prints = [
        fingerprint(one),
        fingerprint(other),
        fingerprint(one, other),
        fingerprint(one, header=True),
        fingerprint(one, delimiter=","),
    ]
    assert len(set(prints)) == 5
    assert fingerprint(one) == fingerprint(same) == prints[0]


def test_shipped_data_are_read():
    assert head_of("shipped://reverse_dictionary/train.csv").named
    assert "shipped://reverse_dictionary/train.csv" in error_message("shipped://nothing.csv")
