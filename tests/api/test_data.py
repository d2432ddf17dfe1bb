"""The argument `data`: every kind of object, checked in memory, kept once by its content."""

import datasets
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import finetune
from finetune.config.quoting import literal
from finetune.data.sources.snapshot import snapshot
from finetune.runs.kept_data import kept, remove_unused
from tests.api.conftest import no_data
from tests.runs.made import make_run

ROWS = [{"anchor": f"red {i}", "positive": f"cat {i}"} for i in range(20)]
SAME = {
    "list of dicts": ROWS,
    "dict of columns": {"anchor": [row["anchor"] for row in ROWS], "positive": [row["positive"] for row in ROWS]},
    "arrays": {name: np.array([row[name] for row in ROWS], dtype=object) for name in ("anchor", "positive")},
    "pandas": pandas.DataFrame(ROWS),
    "pandas with another index": pandas.DataFrame(ROWS, index=range(100, 120)),
    "categories": pandas.DataFrame(ROWS).astype("category"),
    "polars": polars.DataFrame(ROWS),
    "lazy polars": polars.LazyFrame(ROWS),
    "arrow": pa.Table.from_pylist(ROWS),
    "arrow in chunks": pa.concat_tables([pa.Table.from_pylist(ROWS[:7]), pa.Table.from_pylist(ROWS[7:])]),
    "datasets": datasets.Dataset.from_list(ROWS),
    "selected": datasets.Dataset.from_list([*ROWS[10:], *ROWS[:10]]).select([*range(10, 20), *range(10)]),
}
TUPLES = {
    "tuples": [tuple(row.values()) for row in ROWS],
    "lists": [list(row.values()) for row in ROWS],
    "pandas without names": pandas.DataFrame([tuple(row.values()) for row in ROWS]),
}


@pytest.mark.parametrize("kinds", [SAME, TUPLES], ids=["named", "unnamed"])
def test_the_same_content_has_the_same_digest_whatever_object_it_is_in(kinds):
    assert len({snapshot(data).digest for data in kinds.values()}) == 1
    assert snapshot(ROWS[:-1]).digest != snapshot(ROWS).digest != snapshot(ROWS[::-1]).digest
    assert snapshot(TUPLES["tuples"]).digest != snapshot(ROWS).digest


@pytest.mark.parametrize("data", [*SAME.values(), *TUPLES.values()], ids=[*SAME, *TUPLES])
def test_every_kind_of_object_is_read_like_a_file_and_leaves_nothing(folder, tiny_model, data):
    result = finetune.check(*no_data(tiny_model), data=data)
    assert result.problems == [] and result.facts["training_pairs"] == 18
    assert [path.name for path in folder.iterdir()] == ["pairs.csv"]


def test_tuples_have_roles_by_their_order_as_in_a_file_without_a_header(folder, tiny_model):
    rows = [(f"red {i}", f"cat {i}", i / 20) for i in range(20)]
    dataset = finetune.build_dataset(rows, *no_data(tiny_model))
    assert dataset.columns["role"] == ["anchor", "positive", "score"]
    assert dataset.to_dict()["recognised"][0]["header"] is False


WRONG = {
    "None": ([*ROWS, {"anchor": None, "positive": "x"}], "the list of rows:21", "column 'anchor': there is no text"),
    "NaN": (
        pandas.DataFrame([{"anchor": float("nan"), "positive": "x"}, *ROWS]),
        "the pandas frame:1",
        "column 'anchor': there is no text",
    ),
    "a number among texts": ([*ROWS, {"anchor": 3.5, "positive": "x"}], "the list of rows:21", "is a number"),
    "numbers": (
        pandas.DataFrame({"anchor": range(20), "positive": [row["positive"] for row in ROWS]}),
        "data.columns",
        "'anchor' of the pandas frame holds numbers or dates (int64), and texts are expected",
    ),
    "NaN as score": (
        polars.DataFrame([row | {"score": 0.5 if i else float("nan")} for i, row in enumerate(ROWS)]),
        "the polars DataFrame:1",
        "column 'score' is not a finite number",
    ),
    "an empty list": ([], "data.path", "the list of rows holds nothing"),
    "an empty frame": (pandas.DataFrame(), "data.path", "the pandas frame has no column"),
    "no rows": (pandas.DataFrame({"anchor": [], "positive": []}, dtype=str), "the pandas frame", "no usable pair"),
    "other columns": (
        pandas.DataFrame({"foo": ["a b"] * 9, "bar": ["c d"] * 9, "baz": ["e f"] * 9}),
        "data.columns",
        "cannot tell the anchor and the positive among the columns 'foo', 'bar', 'baz'",
    ),
    "a short tuple": ([("a", "b"), ("c",)], "the list of rows:2", "has 1 values, and the first row has 2"),
    "a row that is no row": ([*ROWS, 3], "the list of rows:21", "is of type int, not a dict"),
    "a series": (pandas.Series(["a"]), "data.path", "an object of type pandas.Series holds no data"),
    "a number": (3, "data.path", "an object of type int holds no data"),
    "an array": (np.zeros((3, 2)), "data.path", "an object of type numpy.ndarray holds no data"),
}


@pytest.mark.parametrize(("data", "where", "what"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_before_anything_starts(folder, tiny_model, data, where, what):
    found = finetune.check(*no_data(tiny_model), data=data)
    matching = [problem for problem in found.problems if what in problem.what]
    assert [problem.where for problem in matching] == [where], found.problems
    assert ".data" not in str(found.problems)
    assert all(problem.advice for problem in found.problems if not problem.part)
    with pytest.raises(finetune.CheckFailed):
        finetune.fit(*no_data(tiny_model), data=data)
    assert not (folder / "outputs").exists()


def test_data_is_chosen_once(folder, tiny_model):
    for override in ("data.path=pairs.csv", "data.sources={a:{path:pairs.csv}}"):
        (problem,) = finetune.check(*no_data(tiny_model), override, data=ROWS).problems
        assert problem.where == override and "given twice" in problem.what
    assert finetune.check(*no_data(tiny_model), data="pairs.csv").ok
    assert finetune.check(*no_data(tiny_model), data=folder / "pairs.csv").ok
    assert "no file 'none.csv'" in finetune.check(*no_data(tiny_model), data="none.csv").problems[0].what


def test_a_data_set_keeps_its_content_and_its_options(folder, tiny_model):
    frame = pandas.DataFrame([row | {"negative": "dog", "stars": i % 5} for i, row in enumerate(ROWS)])
    dataset = finetune.build_dataset(frame, *no_data(tiny_model), columns={"anchor": "positive", "positive": "anchor"})
    frame["anchor"] = frame["anchor"] + " changed"
    result = finetune.check(*no_data(tiny_model), data=dataset)
    assert result.ok and result.facts["distinct_anchors"] == dataset.counts["distinct_anchors"] == 18
    assert finetune.build_dataset(frame, *no_data(tiny_model)).fingerprint != dataset.fingerprint


def test_content_is_kept_once_and_goes_with_its_last_run(tmp_path):
    root, found = tmp_path / "outputs", snapshot(ROWS)
    written = []

    def write(path):
        written.append(path)
        found.write(path)

    for name in ("one", "two"):
        with kept(root, found.digest, write) as path:
            run = make_run(root, f"default/{name}")
            (run.path / "overrides.yaml").write_text(f"- data.path={path}\n")
    assert len(written) == 1 and [file.name for file in path.parent.iterdir()] == [path.name]
    finetune.get_run("one", output_root=root).delete()
    assert path.is_file()
    finetune.get_run("two", output_root=root).delete()
    assert not path.parent.exists()


def test_content_that_is_being_used_for_the_first_time_is_not_removed(tmp_path):
    root, found = tmp_path / "outputs", snapshot(ROWS)
    with kept(root, found.digest, found.write) as path:
        remove_unused(root)
        assert path.is_file()
    assert not root.exists()


def test_content_that_cannot_be_written_is_reported(tmp_path):
    root = tmp_path / "outputs"
    root.write_text("a file")
    with pytest.raises(finetune.FinetuneError, match="could not create the folder"), kept(root, "0" * 64, print):
        pass


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"k[a-z_]{0,5}", fullmatch=True), inner),
    max_leaves=5,
)


@given(plain)
def test_plain_data_as_an_override_is_parsed_as_the_same(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([f"key={literal(value)}"])
    assert _plain(parsed.value()) == value


def _plain(value):
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value if value is None or isinstance(value, bool | int | float) else str(getattr(value, "text", value))
