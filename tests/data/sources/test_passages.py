"""The files of retrieval libraries: passages and instructions inside of other values."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.load import load
from tests.data.conftest import csv_data
from tests.data.sources.conftest import error_message, head_of, read, rows_of, tuples

TEVATRON: list[dict[str, Any]] = [
    {
        "query_id": str(i),
        "query": f"q{i}",
        "positive_passages": [
            {"docid": "d1", "title": "T", "text": f"p{i}"},
            {"docid": "d2", "title": "", "text": f"r{i}"},
        ],
        "negative_passages": [{"docid": "d3", "title": "N", "text": ""}] if i else [],
    }
    for i in range(3)
]
EXPECTED = [(f"q{i}", [f"T p{i}", f"r{i}"], ["N"] if i else []) for i in range(3)]
NAMES = ("query", "positive_passages", "negative_passages")


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_jsonl(folder, rows):
    (folder / "x.jsonl").write_text(lines(rows))
    return folder / "x.jsonl"


def as_gzip(folder, rows):
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(lines(rows).encode()))
    return folder / "x.jsonl.gz"


def as_array(folder, rows):
    (folder / "x.json").write_text(json.dumps(rows, indent=1))
    return folder / "x.json"


def as_parquet(folder, rows):
    pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet", row_group_size=2)
    return folder / "x.parquet"


def as_saved_dataset(folder, rows):
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("write", [as_jsonl, as_gzip, as_array, as_parquet, as_saved_dataset])
def test_tevatrons_passages_are_lists_of_texts(write, tmp_path):
    path = write(tmp_path, TEVATRON)
    assert rows_of(path, *NAMES) == EXPECTED
    head = head_of(path)
    assert head.sample[1] == ("1", *EXPECTED[1])
    assert head.notes == [
        "In 'positive_passages', 'negative_passages' the title and the text of each passage are joined."
    ]
    data = load(csv_data(path))
    assert data.layouts == ["several positives"]
    assert len(data.train) == 6
    assert data.train.negatives.shape == (6, 1)


def test_an_object_of_lists_is_a_list_of_passages(tmp_path):
    rows = [
        {"query": f"q{i}", "positive_passages": {"title": ["T", None], "text": [f"p{i}", f"r{i}"]}} for i in range(3)
    ]
    for write in (as_jsonl, as_parquet):
        assert rows_of(write(tmp_path, rows)) == [row[:2] for row in EXPECTED]


def test_lists_that_are_empty_in_the_first_rows_are_read(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}", "negative_ctxs": []} for i in range(30)]
    rows += [{"query": "q", "positive": "p", "negative_ctxs": [{"title": "T", "text": "n"}, None]}]
    assert rows_of(as_jsonl(tmp_path, rows))[-1] == ("q", "p", ["T n", None])


def pairs(path: object, **changes: Any) -> list[tuple[Any, ...]]:
    data = load(csv_data(path, **changes))
    columns = [data.train.anchor, data.train.positive, *data.train.negatives.T]
    return list(zip(*([text or None for text in _texts(data.items, column)] for column in columns), strict=True))


def _texts(items: Any, numbers: Any) -> list[str]:
    return [items.take(number[None])[0] if number >= 0 else "" for number in numbers]


DPR = {"question": "q", "answers": ["x"], "positive_ctxs": [{"title": "T", "text": "p", "score": 1, "psg_id": "7"}]}
BGE = {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1.0], "neg_scores": [0.1, 0], "prompt": "Find"}
LIBRARIES: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "DPR": (DPR | {"negative_ctxs": [], "hard_negative_ctxs": [{"title": "N", "text": "n"}]}, ("T p", "N n")),
    "FlagEmbedding": (BGE, ("p", "n", "m")),
    "lists": ({"query": "q", "positive": ["p"], "negative": ["n", "m"]}, ("p", "n", "m")),
    "anchor, pos, neg": ({"anchor": "q", "pos": "p", "neg": "n"}, ("p", "n")),
    "MEDI": ({"query": ["I", "q"], "pos": ["D", "p"], "neg": ["D", "n"], "task_id": 1}, ("D p", "D n")),
    "GritLM": ({"query": ["I", "q"], "pos": [["", "p"]], "neg": [["", "n"], ["", "m"]]}, ("p", "n", "m")),
    "one passage": ({"query": "q", "positive": {"title": "T", "text": "p"}}, ("T p",)),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_layouts_of_other_libraries(library, tmp_path):
    row, expected = LIBRARIES[library]
    others = json.loads(json.dumps(row).replace('"q"', '"q2"').replace('"p"', '"p2"').replace('p"}', 'p2"}'))
    found = pairs(as_jsonl(tmp_path, [row, others]))
    first = "I q" if isinstance(next(iter(row.values())), list) else "q"
    assert found[0] == (first, *expected)
    assert len(found) == 2


def test_an_instruction_of_another_form_is_a_bad_row(tmp_path):
    rows = [{"query": ["I", f"q{i}"], "pos": ["D", f"p{i}"]} for i in range(30)] + [{"query": ["q"], "pos": ["D", "p"]}]
    reading, _ = read(as_jsonl(tmp_path, rows))
    assert tuples(reading)[-1] == (None, "D p")
    path = as_jsonl(tmp_path, rows)
    assert len(load(csv_data(path, on_bad_rows="skip")).train) == 30
    assert "each text has an instruction in front" in head_of(path).notes[0]


def test_lists_of_two_positives_are_not_instructions(tmp_path):
    rows = [{"query": f"q{i}", "pos": [f"a{i}", f"b{i}"]} for i in range(3)]
    assert rows_of(as_jsonl(tmp_path, rows)) == [(row["query"], row["pos"]) for row in rows]


def test_numbers_in_place_of_texts_get_advice(tmp_path):
    rows = [{"qid": i, "pos": [i * 7], "neg": {"bm25": [1, 2]}} for i in range(3)]
    answer = error_message(as_jsonl(tmp_path, rows))
    assert "holds the numbers of queries and passages ('qid', 'pos', 'neg'), not their texts." in answer
    assert "make a BEIR folder" in answer
    vectors = [{"query_id": i, "embedding": [0.5, 1.0]} for i in range(3)]
    assert len(rows_of(as_jsonl(tmp_path, vectors))) == 3


def test_a_frame_of_passages(tmp_path):
    import pandas

    frame = pandas.read_parquet(as_parquet(tmp_path, TEVATRON))
    assert rows_of(frame, *NAMES) == EXPECTED
    assert pairs(frame)[0] == ("q0", "T p0", None)


def test_a_passage_of_another_form_is_a_bad_row(tmp_path):
    rows = [row | {"positive_passages": [{"title": "", "text": f"p{i}"}]} for i, row in enumerate(TEVATRON * 20)]
    rows[3] = rows[3] | {"positive_passages": "a text"}
    path = as_jsonl(tmp_path, rows)
    answer = error_message(path)
    assert ":4: column 'positive_passages' is text, in the other rows it is a list: a text" in answer
