from pathlib import Path

from finetune.data.inspect.row_locations import row_locations
from tests.data.conftest import csv_data


def found(text: str, *pairs: tuple[str, str], name: str = "rows.csv", **changes) -> list[str | None]:
    Path(name).write_text(text)
    return row_locations(csv_data(name, **changes), pairs)


def test_the_first_row_of_a_pair_is_found_with_lines_inside_cells():
    text = 'anchor,positive\na,x\n"b\nb",y\na,z\na,x\n'
    assert found(text, ("a", "z"), ("b\nb", "y"), ("a", "x"), ("b", "y"), ("a", "q")) == [
        "rows.csv:5", "rows.csv:3", "rows.csv:2", None, None]  # fmt: skip


def test_classes_and_prompts():
    assert found("text,label\na,one\nb,two\nc,two\nd,one\n", ("c", "two"), ("c", "one")) == ["rows.csv:4", None]
    prompts = {"anchor": "q: ", "positive": "d: "}
    assert found("anchor,positive\na,x\nb,y\n", ("q: b", "d: y"), prompts=prompts) == ["rows.csv:3"]


def test_numbers_are_texts_and_lists_have_no_place():
    assert found("anchor,positive\n1,2\n3,4\n", ("3", "4")) == ["rows.csv:3"]
    lists = '{"query": "a", "positives": ["x", "y"]}\n{"query": "b", "positives": ["z"]}\n'
    assert found(lists, ("b", "z"), name="rows.jsonl") == [None]


def test_a_file_that_is_not_there_has_no_places():
    data = csv_data("rows.csv")
    assert row_locations(data, [("a", "x")]) == [None]
    assert row_locations(data, []) == []
