"""The front door: a CSV file in, a data set or one screen of text out."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import Dataset
from finetune.data.load import load
from finetune.data.open_sources import check_head
from tests.data.conftest import csv_data, told

PAIRS = "question,answer\nq1,a1\nq2,a2\nq3,a3\n"


def pairs_of(dataset: Dataset) -> list[tuple[str, str]]:
    train = dataset.train
    anchors, positives = dataset.items.take(train.anchor), dataset.items.take(train.positive)
    return list(zip(anchors, positives, strict=True))


EXPECTED = [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]


@pytest.mark.parametrize(
    "content",
    [
        PAIRS.encode(),
        b"\xef\xbb\xbf" + PAIRS.encode(),
        PAIRS.replace("\n", "\r\n").encode(),
        PAIRS.replace("\n", "\r").encode(),
        (PAIRS + "\n\n\r\n").encode(),
        ("\n" + PAIRS.replace("\n", "\n\n")).encode(),
        PAIRS.rstrip("\n").encode(),
        b'"Question","ANSWER"\n"q1","a1"\nq2,a2\n"q3","a3"',
        b"id, Question ,answer\n1,q1,a1\n2,q2,a2\n3,q3,a3\n",
        b"answer,question\na1,q1\na2,q2\na3,q3\n",
    ],
    ids=["plain", "bom", "crlf", "cr", "trailing", "blank-lines", "no-end", "quoted", "more-columns", "other-order"],
)
def test_files_that_say_the_same_are_read_the_same(content, write):
    assert pairs_of(load(csv_data(write(content)))) == EXPECTED


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("latin-1", "latin-1"), ("cp1252", "cp1252"), ("utf-8", "UTF8")],
)
def test_other_encodings(encoding, declared, write):
    path = write("question,answer\nqué,ça\nnaïf,été\n".encode(encoding))
    assert pairs_of(load(csv_data(path, encoding=declared))) == [("qué", "ça"), ("naïf", "été")]


@pytest.mark.parametrize(("delimiter", "typed"), [("\t", "\t"), ("\t", r"\t"), (";", ";"), ("|", "|"), ("§", "§")])
def test_other_delimiters(delimiter, typed, write):
    path = write(PAIRS.replace(",", delimiter))
    assert pairs_of(load(csv_data(path, delimiter=typed))) == EXPECTED


def test_quoted_cells_may_hold_everything(write):
    path = write('question,answer\n"a, b","line 1\nline 2"\n"say ""hi""",5" wide\n')
    assert pairs_of(load(csv_data(path))) == [("a, b", "line 1\nline 2"), ('say "hi"', '5" wide')]


def test_negatives_may_be_absent(write):
    path = write("question,answer,negative,negative_2\nq1,a1,n1,n2\nq2,a2,,a1\nq3,a3,  ,\n")
    data = load(csv_data(path))
    texts = [[data.items.take(np.array([n]))[0] if n >= 0 else None for n in row] for row in data.train.negatives]
    assert texts == [["n1", "n2"], [None, "a1"], [None, None]]


def test_duplicates_are_kept_once_and_counted(write):
    data = load(csv_data(write(PAIRS + "q2,a2\nq2,a1\nq1,a1\n")))
    assert pairs_of(data) == [*EXPECTED, ("q2", "a1")]
    assert data.facts["duplicate_rows"] == 2
    assert data.facts["distinct_texts"] == 6
    assert any("2 duplicate rows" in note for note in data.notes)


def test_limit_is_the_same_sample_whatever_the_seed(write):
    path = write("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(500)))
    one, other = (load(csv_data(path, limit=50), seed=seed) for seed in (1, 2))
    assert pairs_of(one) == pairs_of(other)
    assert len(one.train) == 50
    assert len(one.items) == 100  # texts of rows that were left out are gone
    rows = [int(anchor[1:]) for anchor, _ in pairs_of(one)]
    assert rows == sorted(rows)
    assert rows[0] < 100 and rows[-1] > 400


def test_same_seed_same_split_other_seed_other_split(write):
    path = write("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(300)))
    splits = [pairs_of(load(csv_data(path, validation_fraction=0.1), seed=seed)) for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


def test_the_fingerprint_is_of_the_content_and_of_how_it_is_read(write):
    first = load(csv_data(write(PAIRS))).fingerprint
    assert load(csv_data(write(PAIRS))).fingerprint == first
    assert load(csv_data(write(PAIRS), batch_size=4)).fingerprint == first
    assert load(csv_data(write(PAIRS), columns=["answer", "question"])).fingerprint != first
    assert load(csv_data(write(PAIRS + "q4,a4\n"))).fingerprint != first


# What is wrong with a file, and words that the answer must have.
REFUSED = {
    "empty": (b"", ["is empty"]),
    "blank": (b"\n\n\r\n", ["is empty"]),
    "header only": (b"question,answer\n", ["pairs.csv:1", "nothing below"]),
    "duplicate names": (b"question,answer,question\nq,a,b\nr,c,d\n", ["'question' more than once"]),
    "ragged": (b"question,answer\nq1,a1\nq2\nq3,a3,x\n", ["pairs.csv:3: found 1 cell", "pairs.csv:4: found 3 cells"]),
    "empty cell": (
        b"question,answer\nq1,a1\n  ,a2\nq3,\n",
        [":3: column 'question'", ":4: column 'answer'"],
    ),
    "nul": (b"question,answer\nq1,a1\nq2,a\x002\n", ["pairs.csv:3: column 'answer' has a NUL byte: a\\x002"]),
    "latin-1": (
        "question,answer\nq1,a1\nq2,caf\xe9\n".encode("latin-1"),
        ["pairs.csv:3: column 'answer' has the byte 0xE9, which is not utf-8: caf\\xe9", "data.encoding=cp1252"],
    ),
    "latin-1 header": ("qu\xe9,answer\nq1,a1\n".encode("latin-1"), ["pairs.csv:1", "0xE9", "data.encoding=cp1252"]),
    "unclosed": (b'question,answer\nq1,a1\nq2,"a2\nq3,a3\n', ["pairs.csv:3: a quote that opens here is never closed"]),
    "unclosed, last line": (b'question,answer\nq1,a1\nq2,"a2', ["pairs.csv:3: a quote"]),
    "unclosed header": (b'question,"answer\nq1,a1\nq2,a2\n', ["pairs.csv:1", "never closed"]),
    "quote closed late": (
        b'question,answer\nq1,"a1\nq2,a2\nq3,"a3"\n',
        [":2: a quote that opens here closes 2 lines later"],
    ),
    "ragged after a quote": (b'question,answer\nq1,"a1\nq2,"a2",\n', ["pairs.csv:2: found 3", "opens on line 2?"]),
    "line after a long cell": (
        b'question,answer\nq1,"a\n\nb"\nq2,\n',
        [":5: column 'answer': there is no text"],
    ),
    "same text": (
        b"question,answer\nq1,q1\nq2,a2\n",
        [":2: column 'question': anchor and positive are the same text"],
    ),
    "negative": (
        b"query,answer,negative\nq1,a1,a1\nq2,a2,n\n",
        [":2: column 'negative': a negative is the same text as the"],
    ),
    "all anchors": (b"question,answer\nq,a1\nq,a2\nq,a3\n", ["all 3 anchors are the same ('q')"]),
    "all positives": (b"question,answer\nq1,a\nq2,a\n", ["all 2 positives are the same ('a')"]),
    "one pair": (b"question,answer\nq,a\nq,a\n", ["only 1 usable pair"]),
    "utf-16": (PAIRS.encode("utf-16"), ["byte-order mark of utf-16", "data.encoding=utf-16"]),
    "cut gzip": (gzip.compress(PAIRS.encode())[:-9], ["pairs.csv", "incomplete"]),
    "parquet": (b"PAR1" + bytes(100), ["damaged or incomplete Parquet file"]),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), ["looks like a PNG image"]),
    "binary": (bytes(range(32)) * 20, ["not a text file"]),
    "score": (b"text1,text2,score\na,b,0.5\nc,d,high\n", ["pairs.csv:3: column 'score' is not a finite number: high"]),
    "label": (b"text,label\na,1\nb,2\nc,2\n", ["pairs.csv:2: column 'label': this class has one member only"]),
    "unknown names": (b"x,y,z\n1,2,3\n4,5,6\n", ["'x', 'y', 'z'", "data.columns=[x,y]"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_files_are_reported_with_location_and_advice(case, write, monkeypatch):
    content, expected = REFUSED[case]
    path = write(content)
    monkeypatch.chdir(path.parent)
    answer = told(csv_data("pairs.csv"))
    for words in expected:
        assert words in answer
    assert len(answer.splitlines()) <= 4


def test_a_huge_cell_is_one_line(write):
    path = write("question,answer\nq1,a1\nq2," + "x" * 10_000_000 + "\n")
    answer = told(csv_data(path))
    assert ":3: column 'answer' has 10,000,000 characters, more than 1,000,000" in answer
    assert max(map(len, answer.splitlines())) < 400


def test_twenty_bad_rows_are_shown_and_all_of_them_listed_in_a_file(write):
    path = write("question,answer\n" + "q,a\n" * 10 + "broken\n" * 57 + ",x\n" * 6)
    lines = told(csv_data(path)).splitlines()
    assert len(lines) == 20 + 1
    assert "63 of 73 rows are bad." in lines[0]
    assert "All of them are listed in problems.jsonl." in lines[0]
    listed = [json.loads(line) for line in Path("problems.jsonl").read_text().splitlines()]
    assert [row["line"] for row in listed] == list(range(12, 75))
    assert listed[0] == {
        "file": str(path),
        "line": 12,
        "column": None,
        "kind": "ragged",
        "what": "found 1 cell, the header has 2",
        "text": "broken",
    }
    assert (listed[-1]["column"], listed[-1]["kind"]) == ("question", "empty")


CP1252 = ("question,answer\n" + "".join(f"Größe {i},für {i}\n" for i in range(20))).encode("cp1252")


def test_a_whole_file_in_another_encoding_is_one_problem_at_its_key(write):
    answer = told(csv_data(write(CP1252)))
    assert answer.startswith("data.encoding: 20 of 20 rows are bad for the same reason; ")
    assert "pairs.csv:2 is the first: column 'question' has the byte 0xF6" in answer
    assert "set data.encoding=cp1252" in answer
    assert "on_bad_rows" not in answer
    mixed = CP1252 + b"q,a\n" * 20  # half of the rows are good: they may be left out
    assert told(csv_data(write(mixed))).startswith("data.on_bad_rows: 20 of 40 rows are bad.")


def test_one_common_reason_without_a_setting_is_reported_at_the_first_row(write):
    answer = told(csv_data(write("question,answer\n" + "q,\n" * 20)))
    assert "pairs.csv:2: 20 of 20 rows are bad for the same reason: column 'answer': there is no text" in answer
    assert len(answer.splitlines()) == 1


def test_if_every_row_was_skipped_the_reason_is_reported(write):
    answer = told(csv_data(write(CP1252), on_bad_rows="skip"))
    assert answer.startswith("data.encoding: no usable row is left: 20 rows were skipped, for the same reason; ")
    assert "set data.encoding=cp1252" in answer


def test_a_file_of_that_name_that_is_something_else_is_left_alone(write):
    mine = Path("problems.jsonl")
    mine.write_text('{"id": 1}\n')
    answer = told(csv_data(write(PAIRS + "q4\n")))
    assert "listed in finetune-problems.jsonl" in answer
    assert mine.read_text() == '{"id": 1}\n'


def test_one_bad_row_is_one_of_several_rows(write):
    assert "1 of 4 rows is bad." in told(csv_data(write(PAIRS + "q4\n")))


def test_a_path_that_leaves_the_shipped_data_is_one_problem():
    data = csv_data("shipped://../x", validation_path="auto")
    assert len(check_head(data)) == 1
    assert len(told(data).splitlines()) == 1


def test_an_empty_folder_is_reported(tmp_path):
    (tmp_path / "empty").mkdir()
    assert told(csv_data("empty")).startswith("data.path: the folder 'empty' is empty.")


def test_a_file_in_place_of_the_validation_folder(write):
    path = write(PAIRS)
    answer = told(csv_data(path, validation_path=str(path)))
    assert answer.startswith(f"data.validation_path: '{path}' is a file. It must be a BEIR folder: corpus.jsonl")


@pytest.mark.parametrize(("fraction", "left"), [(0.99, "1 is left"), (0.75, "1 is left")])
def test_two_pairs_must_be_left_to_train_on(fraction, left, write):
    rows = "".join(f"q{i},a{i}\n" for i in range(100 if fraction > 0.9 else 4))
    assert left in (answer := told(csv_data(write("question,answer\n" + rows), validation_fraction=fraction)))
    assert answer.startswith("data.validation_fraction: ")


def test_bad_rows_can_be_left_out(write):
    path = write(b'question,answer\nq1,a1\nbroken\nq2,a2\n,x\nq3,\xff\nq4,a\0\nq5,a5\nq6,"open\n')
    data = load(csv_data(path, on_bad_rows="skip"))
    assert pairs_of(data) == [("q1", "a1"), ("q2", "a2"), ("q5", "a5")]
    assert (data.facts["rows_read"], data.facts["rows_skipped"]) == (8, 5)
    assert any("5 bad rows were left out" in note for note in data.notes)


def test_a_missing_file_suggests_similar_files(write):
    path = write(PAIRS, "my_pairs.csv")
    assert f"In {path.parent} there is: my_pairs.csv" in told(csv_data(path.with_name("my_pair.csv")))
    assert "no folder" in told(csv_data(path.parent / "nowhere" / "x.csv"))


def test_a_folder_is_no_file(write):
    path = write(PAIRS)
    assert "is a folder. Name the data file in it. It holds: pairs.csv." in told(csv_data(path.parent))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(write):
    path = write(PAIRS)
    path.chmod(0)
    assert "cannot be read: Permission denied" in told(csv_data(path))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"delimiter": ",,"}, "data.delimiter: must be one character"),
        ({"delimiter": '"'}, "data.delimiter: must be one character"),
        ({"delimiter": ""}, "data.delimiter: must be one character"),
        ({"encoding": "utf-9"}, "data.encoding: there is no text encoding 'utf-9'"),
        ({"encoding": "base64"}, "data.encoding: there is no text encoding"),
        ({"columns": ["question", "anwser"]}, "no column 'anwser'. Did you mean 'answer'?"),
        ({"columns": []}, "data.columns: names no column"),
        ({"columns": ["question", "question"]}, "names 'question' twice"),
        ({"columns": {"anchor": "question", "postive": "answer"}}, "data.columns.postive: there is no such role. Did"),
        ({"columns": {"positive": "answer"}}, "names no anchor column"),
        ({"prompts": {"anchr": "x: "}}, "data.prompts.anchr: there is no such role. Did you mean anchor?"),
        ({"path": None}, "data.path: is not set"),
        ({"validation_path": "nowhere"}, "data.validation_path: there is no folder 'nowhere'"),
    ],
)
def test_bad_settings_are_reported_at_their_key(changes, expected, write):
    data = csv_data(**{"path": write(PAIRS), **changes})
    assert expected in "\n".join(map(str, check_head(data)))
    assert expected in told(data)


def test_all_problems_are_reported_at_once(write):
    answer = told(csv_data(write(PAIRS), delimiter="", encoding="utf-9", validation_path="nowhere"))
    for key in ("data.delimiter", "data.encoding", "data.validation_path"):
        assert key in answer
    answer = told(csv_data(write(PAIRS), columns=["a", "a"], prompts={"b": ""}, validation_path="nowhere"))
    for key in ("data.columns", "data.prompts.b", "data.validation_path"):
        assert key in answer


@pytest.mark.alone
def test_the_head_of_a_huge_file_is_checked_fast(tmp_path: Path):
    path = tmp_path / "huge.csv"
    path.write_text(PAIRS + "q,a\n" * 500_000)
    os.truncate(path, 50_000_000_000)  # a hole: no disk is used, but reading it all would take minutes
    start = time.perf_counter()
    assert check_head(csv_data(path)) == []
    assert time.perf_counter() - start < 1


def test_names_with_spaces_and_quotes(write):
    assert len(load(csv_data(write(PAIRS, 'my "best" pairs\' file\n.csv'))).train) == 3


def test_reading_imports_no_torch():
    code = (
        "import sys; from finetune.data.load import read;"
        "read([{'anchor': c, 'positive': c + c} for c in 'abc'], cache=False);"
        "print({'torch', 'pytorch_lightning', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def scores_of(content: str, write, name: str = "scored.csv", **changes) -> list[float]:
    data = load(csv_data(write(content, name), **changes))
    assert data.layouts == ["scored pairs"]
    return data.train.score[:, 0].tolist()


@pytest.mark.parametrize(
    ("content", "changes", "expected"),
    [
        ("text1;text2;score\r\na;b;0,5\r\nc;d;-1,25\r\ne;f;1\r\n", {}, [0.5, -1.25, 1]),
        ("text1\ttext2\tscore\na\tb\t0,5\nc\td\t,25\ne\tf\t1,5e-1\n", {}, [0.5, 0.25, 0.15]),
        ("a;b;0,5\nc;d;0,25\ne;f;1,0\n", {}, [0.5, 0.25, 1]),
        ('text1,text2,score\na,b,"0,5"\nc,d,"0,25"\ne,f,1\n', {"decimal": ","}, [0.5, 0.25, 1]),
        ("text1;text2;score\na;b;1,234\nc;d;2,345\ne;f;3\n", {"decimal": ","}, [1.234, 2.345, 3]),
        ("text1;text2;score\na;b;1,234\nc;d;2,345.5\ne;f;3\n", {"decimal": "."}, [1234, 2345.5, 3]),
        ("text1;text2;score\na;b;1.234,5\nc;d;2.345\ne;f;3\n", {"decimal": ","}, [1234.5, 2345, 3]),
        ("text1;text2;score\na;b;1 234,5\nc;d;-2\u202f345,25\ne;f;3\n", {"decimal": ","}, [1234.5, -2345.25, 3]),
    ],
    ids=[
        "semicolons",
        "tabs",
        "no-header",
        "quoted",
        "told",
        "thousands",
        "thousands-by-points",
        "thousands-by-spaces",
    ],
)
def test_numbers_with_a_decimal_comma(content, changes, expected, write):
    assert scores_of(content, write, **changes) == pytest.approx(expected)
    # A bad row makes the careful reader read the file: the numbers are the same.
    mark = "\t" if "\t" in content else ";" if ";" in content else ","
    changes = changes | {"delimiter": mark, "on_bad_rows": "skip"}
    assert scores_of(content + f"x{mark}y\n", write, **changes) == pytest.approx(expected)


def test_weights_and_grades_may_have_a_decimal_comma_too(write):
    weighted = load(csv_data(write("question;answer;weight\nq1;a1;0,5\nq2;a2;2\n")))
    assert weighted.train.weight.tolist() == [0.5, 2]
    graded = load(csv_data(write("query;document;grade\nq1;a1;0,5\nq2;a2;2,5\n")))
    assert graded.train.score[:, 0].tolist() == [0.5, 2.5]


@pytest.mark.parametrize("number", ["1,234", "12,345,678", "1.234,5", "1 234,5"])
def test_an_ambiguous_thousands_separator_is_rejected(number, write):
    answer = told(csv_data(write(f"text1;text2;score\na;b;{number}\nc;d;2\n")))
    assert f"the numbers in the column 'score' may have a decimal comma or thousands: {number}." in answer
    assert """'data.decimal=","' or 'data.decimal="."'""" in answer
    # Of texts nobody asks.
    assert load(csv_data(write(f"question;answer\nq1;{number}\nq2;2\n"))).layouts == ["pairs"]


def test_a_number_with_a_point_among_those_with_a_comma_is_a_bad_row(write):
    content = "text1;text2;score\n" + "".join(f"a{i};b{i};0,5\n" for i in range(600)) + "x;y;0.5\n"
    assert "scored.csv:602: column 'score' is not a finite number: 0.5" in told(csv_data(write(content, "scored.csv")))


def test_how_numbers_are_written_is_no_question_of_the_cache(write):
    path = write("text1;text2;score\na;b;1,234\nc;d;2,345\n")
    read = [load(csv_data(path, cache=True, decimal=mark)).train.score[0, 0].item() for mark in (",", ".")]
    assert read == pytest.approx([1.234, 1234])


def test_arrays_of_json_are_pairs_and_scored_pairs(write):
    path = write('["q1", "a1"]\n["q2", "a2"]\n["q3", "a3"]\n', "pairs.jsonl")
    data = load(csv_data(path))
    assert pairs_of(data) == EXPECTED
    assert "No header: column 1 is the anchor, column 2 is the positive." in data.notes
    assert scores_of('[["q1", "a1", 0.5],\n ["q2", "a2", 1]]', write, "scored.json") == [0.5, 1]
    several = load(csv_data(write('["q1", ["a1", "a2"]]\n["q2", ["a3"]]\n', "several.jsonl")))
    assert pairs_of(several) == [("q1", "a1"), ("q1", "a2"), ("q2", "a3")]
