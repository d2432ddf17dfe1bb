"""Questions on unused columns and on classes that look like scores, and the settings that answer them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pyarrow import feather, parquet

from finetune.data.load import read
from finetune.errors import CheckFailed

Rows = list[dict[str, Any]]
FORMATS = ("csv", "jsonl", "parquet", "arrow", "python")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pairs(count: int = 40, **columns: Any) -> Rows:
    """Return rows of two texts; of each further column `columns` has its values, one after the other."""
    return [
        {"text_a": f"how to learn skill {i}", "text_b": f"a way to skill {i}"}
        | {name: values[i % len(values)] for name, values in columns.items()}
        for i in range(count)
    ]


def written(rows: Rows, kind: str = "csv", name: str = "data") -> Any:
    """Write rows as a file of this kind, and return what data.path would be."""
    path = Path(f"{name}.{kind}")
    if kind == "python":
        return rows
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        feather.write_feather(pa.Table.from_pylist(rows), str(path))
    return str(path)


def refused(path: Any, **settings: Any) -> str:
    """Return what is asked, with the advice."""
    with pytest.raises(CheckFailed) as failed:
        read(path, **settings)
    return "\n".join(map(str, failed.value.problems))


def answers(asked: str) -> list[dict[str, Any]]:
    """Return the settings of each way that the advice offers, as Hydra reads them from a command line."""
    parser, found = OverridesParser.create(), []
    before: dict[str, Any] = {}
    for way in asked.partition("Say which: ")[2].split("; "):
        words = [quoted or plain for quoted, plain in re.findall(r"'(data\.[^']*)'|(data\.\w+=\S+)", way)]
        overrides = [parser.parse_override(word) for word in words]
        settings = {one.key_or_group.removeprefix("data."): one.value() for one in overrides}
        before = before | settings if "the same with" in way else settings
        found += [before] if settings else []
    return found


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "values",
    [
        (True, False),
        (0, 1),
        (1.0, 0.0),
        ("yes", "no"),
        ("duplicate", "not"),
        ("entailment", "neutral", "contradiction"),
        (0, 1, 2, -1),
        ("", "x"),
        ("not a duplicate, (sure)", 'it\'s "one"'),
    ],
)
def test_a_column_that_may_say_which_pairs_are_right_is_asked_about_and_each_answer_works(kind, values):
    path = written(pairs(verdict=values), kind)
    asked = refused(path)
    assert "the column 'verdict'" in asked
    assert "is not used, and may say which pairs are right" in asked
    unused, scored = answers(asked)
    assert len(read(path, **unused).train) == 36
    if "right" in scored.get("score_values", {}) or "x" in values:
        return  # an example, for values that cannot be written on a command line
    assert 0 < len(read(path, **scored).train) < 36
    del scored["min_score"]
    assert read(path, **scored).layouts == ["scored pairs"]


def test_a_file_that_is_sorted_by_the_column_is_asked_about_too():
    rows = pairs(60)
    for number, row in enumerate(rows):
        row["is_match"] = int(number >= 50)
    assert "'is_match' ('0', '1')" in refused(written(rows))
    # And where the first rows have three values, all of them may have more.
    for number, row in enumerate(rows):
        row["is_match"] = f"part {number // 10}"
    assert read(written(rows)).notes[0] == "Not used: the column 'is_match'."


def test_json_of_two_types_in_one_column_is_asked_about():
    assert "'ok'" in refused(written(pairs(ok=(True, "false")), "jsonl"))


def test_several_such_columns_are_one_question_with_the_likeliest_as_the_example():
    asked = refused(written(pairs(kind=("en", "de"), is_match=(1, 0), origin=("web",))))
    assert "'kind' ('de', 'en'); 'is_match' ('0', '1') are not used" in asked
    assert "score: is_match" in asked
    assert "origin" not in asked


def test_a_name_that_ends_in_score_is_asked_about_with_any_values():
    asked = refused(written(pairs(relatedness_score=[i / 8 for i in range(40)])))
    assert "'relatedness_score' (40 values" in asked
    assert "data.min_score=3" in asked


@pytest.mark.parametrize(
    "columns",
    [
        *({"origin": ("web",)}, {"number": range(40)}, {"tags": (["a"], ["b"])}, {"negative": ("x y", "z w")}),
        # Whatever their values, these names say what a text is about or where it is from.
        *({"split": ("train", "dev")}, {"Lang": ("en", "de")}, {"question_language": ("en", "de", "fr")}),
        *({"source": ("faq", "chat")}, {"type": ("how", "why")}, {"user_id": (1, 2)}, {"topic": ("red", "blue")}),
    ],
)
def test_columns_that_cannot_be_answers_are_only_noted(columns):
    found = read(written(pairs(**columns), "jsonl"))
    unused = [name for name in columns if name != "negative"]
    assert [note for note in found.notes if note.startswith("Not used")] == [
        f"Not used: the column '{name}'." for name in unused
    ]


@pytest.mark.parametrize("name", ["same_topic", "match_type", "is_source", "verdict"])
def test_a_name_that_may_say_which_pairs_are_right_is_asked_about(name):
    assert f"'{name}' ('no', 'yes')" in refused(written(pairs(**{name: ("yes", "no")})))


def test_named_columns_raise_no_question_but_a_note_on_the_others():
    path = written(pairs(status=("open", "done"), id=range(40)))
    assert "'status' ('done', 'open')" in refused(path)
    assert read(path, columns=["text_a", "text_b"]).notes[0] == "Not used: the columns 'status', 'id'."
    assert "'status'" in refused(path)  # what was read before is in the cache


def test_of_several_sources_the_key_is_that_of_the_source():
    sources = {
        "one": {"path": written(pairs(ok=(0, 1)), name="one")},
        "two": {"path": written(pairs(origin=("web",)), name="two")},
    }
    assert "data.sources.one.columns: the column 'ok'" in refused(None, sources=sources)
    sources["one"]["columns"] = ["text_a", "text_b"]
    assert {"one: Not used: the column 'ok'.", "two: Not used: the column 'origin'."} <= set(
        read(None, sources=sources).notes
    )


@pytest.mark.parametrize("name", ["label", "Labels", "gold_label", "class"])
@pytest.mark.parametrize("kind", FORMATS)
def test_classes_of_nli_are_asked_about_and_each_answer_works(name, kind):
    path = written(pairs(**{name: (0, 1, 2, -1)}), kind)
    asked = refused(path)
    assert f"the column '{name}' has the values -1, 0, 1, 2: scores of the pairs, or classes?" in asked
    scores, classes, unused = answers(asked)
    assert read(path, **scores).layouts == ["scored pairs"]
    found = read(path, **classes, validation_fraction=0.0)
    assert found.train.score is not None
    assert sorted(set(found.train.score[:, 0].tolist())) == [0, 0.5, 1]
    assert found.notes[0] == f"10 rows left out: the value of '{name}' has no score (data.score_values)."
    assert read(path, **unused).layouts == ["pairs"]


@pytest.mark.parametrize(
    ("column", "is_asked"),
    [
        ({"label": (0, 1)}, False),
        ({"label": (0.0, 0.5, 1.0)}, False),
        ({"label": (True, False)}, False),
        ({"label": ("Yes", "no")}, False),
        ({"label": range(40)}, False),
        ({"label": (1, 2, 3, 4, 5)}, True),
        ({"score": (0, 1, 2)}, False),
        ({"similarity": (0, 1, 2, 3, 4, 5)}, False),
        ({"score": (-1, 0, 1)}, False),
        ({"score": (0, 1, 2, -1)}, True),
        ({"relevance": (-1, 0, 1, 2)}, False),
        ({"score": (0.25, 0.5), "label": (0, 1, 2)}, False),  # the score is the score
    ],
)
def test_only_few_whole_numbers_that_are_not_a_scale_are_asked_about(column, is_asked):
    path = written(pairs(**column))
    if is_asked:
        assert "scores of the pairs, or classes?" in refused(path)
    else:
        assert read(path).train.score is not None


def test_classes_that_come_late_in_the_file_are_asked_about():
    rows = pairs(60)
    for number, row in enumerate(rows):
        row["label"] = number // 25  # the first rows are all 0
    assert "has the values 0, 1, 2" in refused(written(rows))
    path = written([{str(i): value for i, value in enumerate(row.values())} for row in rows])
    Path(path).write_text(Path(path).read_text().partition("\n")[2])
    assert "the column '3' has the values 0, 1, 2" in refused(path)  # and so without a header


def test_words_next_to_two_texts_become_the_configured_scores():
    path = written(pairs(label=("entailment", "Contradiction", "-")))
    worth = {"entailment": 1, "contradiction": 0, "-": None}
    found = read(path, score_values=worth, validation_fraction=0.0)
    assert found.train.score is not None
    assert found.train.score[:, 0].tolist() == [1, 0] * 13 + [1]
    assert len(read(path, score_values=worth, min_score=1, validation_fraction=0.0).train) == 14
    assert read(path, score_values=worth).fingerprint != read(path, score_values=worth | {"-": 0}).fingerprint


def test_a_value_without_a_score_is_a_bad_row():
    path = written(pairs(label=(0, 1, 2)), "jsonl")
    message = refused(path, score_values={0: 1, 1: 0})
    assert "data.jsonl:3: column 'label' has a value that data.score_values gives no score (0, 1): 2" in message
    assert "13 of 40 rows are bad" in message


def test_score_values_without_a_score_column_are_a_problem():
    assert "data.score_values: is set, and none of the columns" in refused(written(pairs()), score_values={"a": 1})
    message = refused(written(pairs(score=([0], [1])), "jsonl"), score_values={0: 1})
    assert "holds large_list" in message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "values", [(True, False), ("true", "false"), ("Yes", "NO"), (" TRUE ", "False"), ("1", "no")], ids=str
)
def test_booleans_are_scores_in_every_format(kind, values):
    found = read(written(pairs(score=values), kind), validation_fraction=0.0)
    assert found.train.score is not None
    assert found.train.score[:, 0].tolist() == [1, 0] * 20


def test_a_word_that_is_not_a_boolean_is_reported_with_its_row():
    message = refused(written(pairs(3, score=("true", "maybe", "false"))))
    assert "data.csv:3: column 'score' is not a finite number: maybe" in message
    assert "data.score_values" in message


def test_columns_of_texts_are_suggested():
    rows = [
        {"id": i, "qid1": f"q{i}", "qid2": f"q{i + 50}", "lang": "en"}
        | {"question1": f"how does thing {i} work", "question2": f"what is thing {i}", "is_duplicate": i % 2}
        for i in range(40)
    ]
    message = refused(written(rows))
    assert "Name them, as in 'data.columns={anchor: question1, positive: question2, score: is_duplicate}'." in message
    message = refused(written([{name.replace("is_duplicate", "label"): row[name] for name in row} for row in rows]))
    assert "for pairs 'data.columns={anchor: question1, positive: question2, score: label}'" in message
    path = written(rows)
    Path(path).write_text(Path(path).read_text().partition("\n")[2])
    assert "Name them by number, as in 'data.columns=[5,6]'" in refused(path, header=False)
    rows = [
        {"code": f"x{i}", "kind": "ab"[i % 2], "remark": f"this is remark {i}", "label": "uvw"[i % 3]}
        for i in range(40)
    ]
    assert "{item: remark, label: label}" in refused(written(rows))


def test_a_single_column_of_numbers_may_be_the_score_under_any_name():
    rows = [{"Satz1": f"ein Satz {i}", "Satz2": f"noch ein Satz {i}", "Bewertung": i % 6} for i in range(40)]
    message = refused(written(rows))
    assert "data.columns=[Satz1,Satz2]" in message
    assert "If 'Bewertung' says how well the two match, it is their score: 'data.columns={anchor: Satz1" in message
    assert "score: Bewertung}'" in message
    assert "loss=cosent, or data.min_score=3" in message
    message = refused(written([row | {"Jahr": 1990 + i} for i, row in enumerate(rows)]))
    assert "score:" not in message  # of two columns of numbers nothing says which it is


def test_the_advice_on_scored_pairs_has_loss_and_columns():
    labels = ("entailment", "neutral", "contradiction")
    rows = [{"sentence1": f"some text {i}", "sentence2": f"other {i}", "label": labels[i % 3]} for i in range(40)]
    assert "loss=cosent, or data.min_score=1 " in refused(written(rows))
    message = refused(written([row | {"label": i % 3} for i, row in enumerate(rows)]))
    assert "loss=cosent, or data.min_score=2 " in message
    assert "With data.score_values, data.min_score=1." in message


def test_a_column_of_two_values_is_not_a_text_and_may_rate_pairs():
    rows = [{"left": f"some text {i}", "right": f"some other {i}", "ok": i % 2} for i in range(40)]
    message = refused(written(rows))
    assert "data.columns=[left,right]" in message
    assert "If 'ok' says which pairs are right, it is their score: 'data.columns={anchor: left" in message
    assert "score: ok}'" in message
    message = refused(written([{"remark": row["left"], "ok": row["ok"]} for row in rows]))
    assert "the column 'ok' has two or three values only" in message
    assert "{item: remark, label: ok}" in message


def conflict(values: list[Any], name: str = "positives") -> Rows:
    return [{"query": f"what is thing {i}", name: value} for i, value in enumerate(values)]


LISTS = [[f"thing {i} is this", f"thing {i} is that"] for i in range(30)]
TEXTS = [f"thing {i} is this" for i in range(30)]


@pytest.mark.parametrize(
    ("most", "odd", "said"),
    [
        (LISTS, "one text", "is text, in the other rows it is a list: one text"),
        (TEXTS, ["a", "b"], "is a list, in the other rows it is text: ['a', 'b']"),
        (LISTS, 7, "is a number, in the other rows it is a list: 7"),
        (TEXTS, 7, "is a number, in the other rows it is text: 7"),
        (TEXTS, {"text": "a"}, "is an object, in the other rows it is text: {'text': 'a'}"),
        (LISTS, ["a", 7], "has a value inside that is of another type than in the other rows: ['a', 7]"),
        (LISTS, None, ": the list is empty."),
        (LISTS, ["a", None], ": there is no text: ['a', None]"),
        (TEXTS, None, ": there is no text."),
    ],
)
@pytest.mark.parametrize("row", [2, 24])
def test_a_value_of_another_type_is_reported_with_its_row(most, odd, said, row):
    rows = conflict([*most[:row], odd, *most[row + 1 :]])
    column = f"column 'positives'{'' if said.startswith(':') else ' '}{said}"
    assert f"data.jsonl:{row + 1}: {column}" in refused(written(rows, "jsonl"))
    assert f"the list of rows:{row + 1}: {column}" in refused(rows)
    columns = {name: [each[name] for each in rows] for name in rows[0]}
    assert f"the dict of columns:{row + 1}: {column}" in refused(columns)
    Path("data.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    assert f"data.json:{row + 2}: {column}" in refused("data.json")
    if odd is None or odd == ["a", None]:
        assert f"data.parquet:{row + 1}: {column}" in refused(written(rows, "parquet"))


def test_a_column_of_another_type_is_reported_with_its_first_row():
    objects = conflict([None, *({"said": text} for text in TEXTS)])
    for kind, place in (("jsonl", "data.jsonl:2"), ("parquet", "data.parquet:2"), ("python", "the list of rows:2")):
        message = refused(written(objects, kind))
        assert f"the column 'positives' holds objects, and texts are expected. The first is in {place}." in message
    assert "the column 'label' holds lists" in refused(conflict(LISTS, "label"))
    sources = {"one": {"path": written(objects, "jsonl")}, "two": {"path": written(pairs(), name="two")}}
    assert "data.sources.one.columns: the column 'positives' holds objects" in refused(None, sources=sources)


def test_most_rows_decide_what_a_column_holds():
    message = refused(written(conflict([*TEXTS[:25], *LISTS, *LISTS]), "jsonl"))
    assert "25 of 85 rows are bad" in message
    assert "data.jsonl:1: column 'positives' is text, in the other rows it is a list" in message


def with_commas(rows: Rows) -> str:
    """Write rows as Excel does in Germany: semicolons between cells, numbers with a decimal comma."""
    path = Path("excel.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(rows[0])
        writer.writerows([str(cell).replace(".", ",") for cell in row.values()] for row in rows)
    return str(path)


@pytest.mark.parametrize("values", [(1.0, 0.0), (0.5, 0.25, 1.5)])
def test_an_unused_column_with_decimal_commas_is_asked_about_and_each_answer_works(values):
    path = with_commas(pairs(verdict=values))
    asked = refused(path)
    assert "the column 'verdict'" in asked
    unused, scored = answers(asked)
    assert len(read(path, **unused).train) == 36
    assert 0 < len(read(path, **scored).train) < 36
    del scored["min_score"]
    assert read(path, **scored).layouts == ["scored pairs"]


def test_a_scale_with_decimal_commas_is_asked_about_by_its_name():
    asked = refused(with_commas(pairs(relatedness_score=[i / 8 for i in range(40)])))
    assert "data.min_score=3" in asked


def test_classes_with_decimal_commas_are_asked_about_and_get_their_scores():
    path = with_commas(pairs(label=(0.0, 1.0, 2.0)))
    asked = refused(path)
    assert "the column 'label' has the values 0, 1, 2: scores of the pairs, or classes?" in asked
    _, classes, _ = answers(asked)
    found = read(path, **classes, validation_fraction=0.0)
    assert found.train.score is not None
    assert sorted(set(found.train.score[:, 0].tolist())) == [0, 0.5, 1]


@pytest.mark.parametrize("worth", [{0.5: 1, 2.25: 0}, {"0,5": 1, "2,25": 0}, {"0.5": 1, "2.25": 0}])
@pytest.mark.parametrize("decimal", ["auto", ","])
def test_values_with_a_decimal_comma_get_the_configured_scores_in_either_notation(worth, decimal):
    path = with_commas(pairs(score=(0.5, 2.25)))
    found = read(path, score_values=worth, decimal=decimal, validation_fraction=0.0)
    assert found.train.score is not None
    assert found.train.score[:, 0].tolist() == [1, 0] * 20


def test_booleans_are_scores_where_numbers_have_a_decimal_comma():
    found = read(written(pairs(score=("true", "no"))), decimal=",", validation_fraction=0.0)
    assert found.train.score is not None
    assert found.train.score[:, 0].tolist() == [1, 0] * 20


def test_an_invalid_score_names_both_settings():
    message = refused(written(pairs(score=("0,5", "maybe", "1"))))
    advice = "such as 0.75; set 'data.decimal=\",\"' for numbers with a decimal comma, data.score_values for words and"
    assert advice in message


def test_prompts_and_scores_of_lists_are_named_and_not_asked_about():
    rows = [
        {"query": f"what is thing {i}", "pos": f"thing {i} is this", "pos_scores": [0.5], "prompt": f"Find {i % 2}: "}
        for i in range(40)
    ]
    assert read(written(rows, "jsonl")).notes[0] == "Not used: the columns 'pos_scores', 'prompt'."
    lists: Rows = [row | {"pos": [row["pos"]], "neg": ["other"], "neg_scores": [0.1]} for row in rows]
    assert read(written(lists, "jsonl")).notes[0] == "Not used: the columns 'pos_scores', 'prompt', 'neg_scores'."
