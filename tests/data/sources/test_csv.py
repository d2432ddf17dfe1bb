"""CSV files: the detected dialect and columns, and the messages for invalid files."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import CheckFailed
from tests.data.sources.conftest import error_message, head_of, read, rows_of, tuples

PAIRS = "question,answer\nq1,a1\nq2,a2\nq3,a3\n"
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
        b'"question","answer"\n"q1","a1"\nq2,a2\n"q3","a3"',
        b"id,question,answer\n1,q1,a1\n2,q2,a2\n3,q3,a3\n",
        b"answer,question\na1,q1\na2,q2\na3,q3\n",
    ],
    ids=["plain", "bom", "crlf", "cr", "trailing", "blank-lines", "no-end", "quoted", "more-columns", "other-order"],
)
def test_equivalent_files_have_the_same_rows(content, write):
    path = write(content)
    assert rows_of(path, "question", "answer") == EXPECTED
    assert head_of(path).notes == []


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("latin-1", "latin-1"), ("cp1252", "cp1252"), ("utf-8", "UTF8")],
)
def test_other_encodings(encoding, declared, write):
    path = write("question,answer\nqué,ça\nnaïf,été\n".encode(encoding))
    assert rows_of(path, encoding=declared) == [("qué", "ça"), ("naïf", "été")]


@pytest.mark.parametrize(("delimiter", "typed"), [("\t", "\t"), ("\t", r"\t"), (";", ";"), ("|", "|"), ("§", "§")])
def test_a_given_delimiter(delimiter, typed, write):
    path = write(PAIRS.replace(",", delimiter))
    assert rows_of(path, delimiter=typed) == EXPECTED
    assert head_of(path, delimiter=typed).notes == []


def test_quoted_cells_may_contain_delimiters_and_line_ends(write):
    path = write('question,answer\n"a, b","line 1\nline 2"\n"say ""hi""",5" wide\n')
    assert rows_of(path) == [("a, b", "line 1\nline 2"), ('say "hi"', '5" wide')]


def test_names_with_spaces_and_quotes(write):
    assert rows_of(write(PAIRS, 'my "best" pairs\' [file]\n.csv')) == EXPECTED


PROSE = ["Hello, you.", "No.", "Well, well, well.", "Fine, thanks.", "Yes; no; maybe.", "One, two, three, four, five."]
# Content, its rows, and words of the note on the detected dialect.
RECOGNISED = {
    "tabs": (PAIRS.replace(",", "\t"), EXPECTED, "tabs between cells"),
    "semicolons": (PAIRS.replace(",", ";"), EXPECTED, "semicolons between cells"),
    "bars": (PAIRS.replace(",", "|"), EXPECTED, "bars between cells"),
    "texts with commas between tabs": (
        "question\tanswer\n" + "".join(f"{a}\t{b}\n" for a, b in zip(PROSE, PROSE[::-1], strict=True)),
        list(zip(PROSE, PROSE[::-1], strict=True)),
        "tabs between cells",
    ),
    "one comma in every text, a header between tabs": (
        "question\tanswer\nHello, you.\tGood, you?\nNo, no.\tYes, yes.\n",
        [("Hello, you.", "Good, you?"), ("No, no.", "Yes, yes.")],
        "tabs between cells",
    ),
    "decimal commas": (
        "text1;text2;score\na;b;0,5\nc;d;0,7\n",
        [("a", "b", "0,5"), ("c", "d", "0,7")],
        "semicolons between cells, a decimal comma in 'score'.",
    ),
    "decimal commas without a header": (
        "a;b;0,5\nc;d;0,7\n",
        [("a", "b", "0,5"), ("c", "d", "0,7")],
        "semicolons between cells, a decimal comma in '3', no header",
    ),
    "lists in cells": ("id,tags\n1,a;b\n2,c;d\n", [("1", "a;b"), ("2", "c;d")], ""),
    "quoted, with the other delimiter": ('"a, b";"c, d"\n"e, f";"g, h, i."\n"x";"j."\n', None, "semicolons"),
    "no header, sentences": (
        "How are you?,Fine.\nWho is it?,Me.\n",
        [("How are you?", "Fine."), ("Who is it?", "Me.")],
        "no header",
    ),
    "no header, numbers": ("a,b,0.5\nc,d,0.7\n", [("a", "b", "0.5"), ("c", "d", "0.7")], "no header"),
    "no header, a class comes again": (
        "good film,pos\nbad film,neg\nok film,pos\n",
        [("good film", "pos"), ("bad film", "neg"), ("ok film", "pos")],
        "no header",
    ),
    "unknown names over numbers": ("x,y\n1,2\n3,4\n", [("1", "2"), ("3", "4")], ""),
    "unknown names over texts": (
        "frage,antwort\nWas ist denn das?,Ein Hund ist das.\nWer war das hier?,Ich war es.\n",
        [("Was ist denn das?", "Ein Hund ist das."), ("Wer war das hier?", "Ich war es.")],
        "",
    ),
    "a header over sentences": (
        "Frage;Antwort\nWas, bitte?;Das, hier.\nWo?;Dort\n",
        [("Was, bitte?", "Das, hier."), ("Wo?", "Dort")],
        "semicolons between cells.",
    ),
    "two letters": ("q,a\nx,y\n", [("x", "y")], ""),
    "one column with a header": ("text\n" + "\n".join(PROSE), [(text,) for text in PROSE], "one column"),
    "one column without": ("\n".join(PROSE), [(text,) for text in PROSE], "one column, no header"),
    "words one a line": ("apple\nbanana\ncherry\n", [("apple",), ("banana",), ("cherry",)], "one column, no header"),
    "one column, quoted": ('text\n"Hello, you"\n"No"\n', [("Hello, you",), ("No",)], "one column"),
    "one column of speech": (
        '"No," he said.\n"Why, yes."\nOh.\n',
        [('"No," he said.',), ('"Why, yes."',), ("Oh.",)],
        "",
    ),
    "single quotes": (
        "question,answer\n'Who, me?','Yes, you'\n'It''s me','a'\n",
        [("Who, me?", "Yes, you"), ("It's me", "a")],
        "single quotes",
    ),
    "single quotes around everything": (
        "'question','answer'\n'a','b'\n'c','d'\n",
        [("a", "b"), ("c", "d")],
        "single quotes",
    ),
    "single quotes that are text": ("question,answer\n'a','b'\n'c','d'\n", [("'a'", "'b'"), ("'c'", "'d'")], ""),
    "apostrophes are no quotes": (
        "question,answer\n'tis me,don't\nrock 'n' roll,'twas\n",
        [("'tis me", "don't"), ("rock 'n' roll", "'twas")],
        "",
    ),
    "backslashes": (
        'question,answer\n"say \\"hi, you\\"",a\n"b","c, \\"d\\""\n',
        [('say "hi, you"', "a"), ("b", 'c, "d"')],
        "a backslash before quotes",
    ),
    "plain quotes between tabs": (
        'question\tanswer\n"No," he said\t5" pipe\n"open\tyes\n',
        [('"No," he said', '5" pipe'), ('"open', "yes")],
        "quotes as plain characters",
    ),
}


@pytest.mark.parametrize("case", RECOGNISED)
def test_the_dialect_is_detected_and_noted(case, write):
    content, expected, note = RECOGNISED[case]
    path = write(content, "data.txt")
    if expected is not None:
        assert rows_of(path) == expected
    assert note in "".join(head_of(path).notes)
    assert bool(note) <= bool(head_of(path).notes)


def test_without_a_header_columns_are_numbers(write):
    path = write("How are you?,Fine.\nWho is it?,Me.\n")
    head = head_of(path)
    assert (head.names, head.named, head.sample) == (
        ["1", "2"],
        False,
        [("How are you?", "Fine."), ("Who is it?", "Me.")],
    )
    assert rows_of(path, "2") == [("Fine.",), ("Me.",)]
    assert head_of(path, header=True).names == ["How are you?", "Fine."]
    assert head_of(write(PAIRS), header=False).names == ["1", "2"]


# Content, and words that must be in the answer: both readings, and the setting that decides.
DOUBTFUL = {
    "commas or semicolons": (
        "a;b,x\nc;d,y\n",
        ["with commas between cells its first row is 'a;b' | 'x'", "with semicolons", "'a' | 'b,x'"],
        """data.delimiter: 'data.csv' can be read in two ways""",
    ),
    "tabs or commas": (
        "Hello, you\tHi, me\nNo, no\tYes, yes\n",
        ["its first row is 'Hello, you' | 'Hi, me'"],
        """Say which is right: 'data.delimiter=","' or 'data.delimiter="\\t"'.""",
    ),
    "a table or texts": (
        "Hello, you\nNo\nWell, well\nBye, now\n",
        ["'Hello' | 'you'", "as one column its first text is 'Hello, you'"],
        "data.delimiter=none",
    ),
    "a header of another width": (
        "text\n" + "a,b\n" * 6,
        ["as one column its first text is 'text'", "with commas"],
        "data.delimiter=none",
    ),
    "names or words": (
        "house,Haus\ncat,Katze\ndog,Hund\n",
        ["its first row, 'house' | 'Haus', is a header or a row of data", "the row below is 'cat' | 'Katze'"],
        "Say which is right: data.header=true or data.header=false.",
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_an_ambiguous_file_is_a_problem_with_both_readings(case, write, monkeypatch):
    content, readings, setting = DOUBTFUL[case]
    monkeypatch.chdir(write(content, "data.csv").parent)
    answer = error_message("data.csv")
    for words in (*readings, setting):
        assert words in answer


def test_options_resolve_ambiguity(write):
    path = write("a;b,x\nc;d,y\n")
    assert rows_of(path, delimiter=";", header=False) == [("a", "b,x"), ("c", "d,y")]
    assert rows_of(write("house,Haus\ncat,Katze\n"), header=True) == [("cat", "Katze")]
    assert rows_of(write("Hello, you\nNo\nWell, well\nBye, now\n"), delimiter="none")[0] == ("Hello, you",)
    assert rows_of(write("Hello, you\tHi, me\nNo, no\tYes, yes\n", "x.tsv"))[1] == ("No, no", "Yes, yes")


# What is wrong with a file, and words that the answer must have.
REFUSED = {
    "empty": (b"", ["is empty"]),
    "blank": (b"\n\n\r\n", ["is empty"]),
    "header only": (b"question,answer\n", ["pairs.csv:1", "nothing below"]),
    "duplicate names": (b"question,answer,question\nq,a,b\nr,c,d\n", ["'question' more than once"]),
    "ragged": (b"question,answer\nq1,a1\nq2\nq3,a3,x\n", ["pairs.csv:3: found 1 cell", "pairs.csv:4: found 3 cells"]),
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
    "line after a long cell": (b'question,answer\nq1,"a\n\nb"\nq2\n', ["pairs.csv:5: found 1 cell"]),
    "utf-16": (PAIRS.encode("utf-16"), ["byte-order mark of utf-16", "data.encoding=utf-16"]),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), ["looks like a PNG image"]),
    "binary": (bytes(range(32)) * 20, ["not a text file"]),
    "excel": (b"PK\x03\x04" + bytes(30) + b"xl/workbook.xml" + bytes(90), ["an Excel workbook (xlsx)", "CSV text"]),
    "zip": (b"PK\x03\x04" + bytes(100), ["is an archive (zip)", "Unpack it and name the file in it"]),
    "tar in gzip": (gzip.compress(bytes(257) + b"ustar" + bytes(300)), ["is an archive (tar)"]),
    "bare pickle": (b"\x80\x04\x95" + bytes(100), ["a Python pickle"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unreadable_files_are_reported_with_location_and_advice(case, write, monkeypatch):
    content, expected = REFUSED[case]
    monkeypatch.chdir(write(content).parent)
    answer = error_message("pairs.csv")
    for words in expected:
        assert words in answer
    assert len(answer.splitlines()) <= 4


def test_a_better_delimiter_than_the_given_one_is_suggested(write):
    answer = error_message(write("question;answer\nq1;a1\nq2;a2\n"), delimiter=",")
    assert ":1: there is one column only, 'question;answer'" in answer
    assert """If its cells are separated by ';', set 'data.delimiter=";"'.""" in answer


def test_a_huge_cell_is_one_line(write):
    path = write("question,answer\nq1,a1\nq2," + "x" * 10_000_000 + "\n")
    answer = error_message(path)
    assert ":3: column 'answer' has 10,000,000 characters, more than 1,000,000" in answer
    assert max(map(len, answer.splitlines())) < 400


def test_bad_rows_are_left_out_and_the_others_keep_their_lines(write):
    path = write(b'question,answer\nq1,a1\nbroken\n"q\n2",a2\n\nq3,\xff\nq4,a\0\nq5,a5\nq6,"open\n')
    reading, bad = read(path)
    assert tuples(reading) == [("q1", "a1"), ("q\n2", "a2"), ("q5", "a5")]
    assert (reading.rows_read, len(bad)) == (7, 4)
    assert [place.line for place in reading.locate(np.array([2, 0, 1]))] == [9, 2, 4]
    assert [(row.line, row.kind) for row in bad.first] == [
        (3, "ragged"),
        (7, "undecodable"),
        (8, "nul"),
        (10, "unclosed"),
    ]


SEPARATED = "sep=;\r\nquestion;answer\r\nq1;a, 1\r\n\r\nq2;a2\r\n"


@pytest.mark.parametrize(
    "content",
    [
        SEPARATED.encode(),
        SEPARATED.encode("utf-8-sig"),
        SEPARATED.replace("\r\n", "\n").encode(),
        SEPARATED.replace("sep=;", '"sep=;"').encode(),
        SEPARATED.replace("sep=;", "SEP=;;").encode(),
        SEPARATED.replace(";", "\t").encode(),
        SEPARATED.replace("sep=;", r"sep=\t").replace(";", "\t").encode(),
        SEPARATED.replace(";", "^").encode(),
        # The last row has a quote that makes the strict reader read the file.
        (SEPARATED + 'q3;"a\r\nb"x"\r\n').encode(),
    ],
    ids=["plain", "bom", "lf", "quoted", "wide", "tab", "written-tab", "another", "strict"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_sep_line_of_excel_names_the_delimiter_and_is_not_a_row(content, encoding, write):
    path = write(content.decode().encode(encoding) if encoding == "utf-16" else content)
    reading, _ = read(path, encoding=encoding)
    assert tuples(reading)[:2] == [("q1", "a, 1"), ("q2", "a2")]
    assert reading.table.num_rows == 2
    assert [place.line for place in reading.locate(np.arange(2))] == [3, 5]
    assert "without its first line" in head_of(path, encoding=encoding).notes[0]


def test_bad_rows_below_the_first_line_of_excel_keep_their_lines(write):
    _, bad = read(write(SEPARATED + "q3;a3;more\r\n"))
    assert [(row.line, row.kind) for row in bad.first] == [(6, "ragged")]
    assert "data.csv:2: the header has" in error_message(write("sep=;\nquestion;question\na;b\n", "data.csv"))


@pytest.mark.parametrize("content", ["a,b\nr0,x\n\n\nr1,x\r\nr2,x\n", 'a,b\nr0,x\n"r1","x\ny"\n\nr2,x\n'])
def test_rows_of_a_valid_file_are_located(content, write):
    path = write(content)
    reading, bad = read(path, header=True)
    assert not bad
    lines = path.read_bytes().replace(b'"', b"").splitlines()
    for row, place in enumerate(reading.locate(np.arange(3))):
        assert lines[place.line - 1].startswith(f"r{row}".encode())


def test_similar_file_names_are_suggested_for_a_missing_file(write):
    path = write(PAIRS, "my_pairs.csv")
    assert f"In {path.parent} there is: my_pairs.csv" in error_message(path.with_name("my_pair.csv"))
    assert "no folder" in error_message(path.parent / "nowhere" / "x.csv")


def test_a_folder_is_not_a_file(write):
    assert "is a folder. Name the data file in it. It holds: pairs.csv." in error_message(write(PAIRS).parent)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(write):
    path = write(PAIRS)
    path.chmod(0)
    assert "cannot be read: Permission denied" in error_message(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"delimiter": ",,"}, "data.delimiter: must be one character"),
        ({"delimiter": '"'}, "data.delimiter: must be one character"),
        ({"delimiter": ""}, "data.delimiter: must be one character"),
        ({"encoding": "utf-9"}, "data.encoding: there is no text encoding 'utf-9'"),
        ({"encoding": "base64"}, "data.encoding: there is no text encoding"),
        ({"format": "parqet"}, "data.format: there is no format 'parqet'. Did you mean parquet?"),
        ({"decimal": "comma"}, "data.decimal: must be auto, a point or a comma, not 'comma'."),
        ({"header": "yes"}, "data.header: must be auto, true or false"),
    ],
)
def test_invalid_options_are_reported_with_their_key(changes, expected, write):
    assert expected in error_message(write(PAIRS), **changes)


def test_all_invalid_options_are_reported_at_once(write):
    answer = error_message(write(PAIRS), delimiter="", encoding="utf-9", format="x")
    for key in ("data.delimiter", "data.encoding", "data.format"):
        assert key in answer


def test_the_head_of_a_huge_file_is_read_fast(tmp_path: Path):
    path = tmp_path / "huge.csv"
    path.write_text(PAIRS + "q,a\n" * 500_000)
    os.truncate(path, 50_000_000_000)  # a hole: no disk is used, but reading it all would take minutes
    start = time.process_time()
    assert head_of(path).names == ["question", "answer"]
    assert time.process_time() - start < 1


def test_an_endless_row_is_a_problem_before_it_fills_memory(write, monkeypatch):
    monkeypatch.setattr("finetune.data.sources.csv_text.ROW_CHARACTERS", 5_000_000)
    path = write(PAIRS + 'q4,"' + "open\n" * 2_000_000)
    assert ":5: here a row begins that does not end" in error_message(path)


def test_reading_the_head_of_csv_imports_no_large_library(write):
    heavy = "{'torch', 'transformers', 'numpy', 'pyarrow', 'pandas', 'polars', 'datasets', 'fsspec'}"
    code = (
        "import sys; from finetune.data.sources import open_source, ReadOptions\n"
        f"open_source({str(write(PAIRS))!r}, ReadOptions()).head(); print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_problem_names_the_given_key(write):
    from finetune.data.sources import ReadOptions, open_source

    with pytest.raises(CheckFailed, match=r"^data\.sources\.faq\.path: there is no file"):
        open_source(str(write(PAIRS)) + "x", ReadOptions(), "data.sources.faq.path")
