import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import FinetuneError
from finetune.runs.directory import RunDirectory
from finetune.runs.metrics import curve, last_values, resolve_metric_name
from finetune.runs.metrics_file import last_value

NAMES = st.sampled_from(["loss", "a/loss", "x/before/loss", 'q"uote', "ünïcode", "los"])
VALUES = st.one_of(st.floats(), st.integers(-5, 5), st.none(), st.just("text"), st.booleans())
RECORDS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=8)


@given(RECORDS, NAMES)
def test_last_value_equals_reading_everything(tmp_path_factory, records, name) -> None:
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    for step, record in enumerate(records):
        run.append_metrics({"step": step, **record})
    whole = last_values(run.read_metrics())
    short = [
        value
        for record in (last_values([each]) for each in run.read_metrics())
        for key, value in record.items()
        if key.endswith(f"/{name}") and "/before/" not in key
    ]
    assert last_value(run.metrics_path, name) == whole.get(name, short[-1] if short else None)


def test_short_names_never_match_the_model_before_training(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 0, "retrieval/before/nDCG@10": 0.2})
    assert last_value(run.metrics_path, "nDCG@10") is None
    assert last_value(run.metrics_path, "retrieval/before/nDCG@10") == 0.2
    run.append_metrics({"step": 9, "retrieval/after/nDCG@10": 0.3})
    assert last_value(run.metrics_path, "nDCG@10") == 0.3


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"loss": 1', b'{"loss": {"loss": 3}}\n', b"\xff\xff\n"])
def test_a_file_without_a_complete_record_has_no_value(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    assert last_value(tmp_path / "m", "loss") is None
    assert last_value(tmp_path / "none", "loss") is None


def test_an_incomplete_last_line_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"loss": 2}\n{"loss": 1')
    assert last_value(tmp_path / "m", "loss") == 2


def test_a_curve_has_the_finite_points_in_the_order_of_steps() -> None:
    records = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3.0}, {"step": 3, "loss": None}, {"step": 4, "x": 1}]
    records.append({"step": 5, "loss": math.inf})
    assert curve(records, "loss") == [(1, 3.0), (2, 1.0)]


def test_metric_names_are_resolved() -> None:
    names = ["loss", "retrieval/before/nDCG@10", "retrieval/after/nDCG@10", "a/x", "b/x"]
    assert resolve_metric_name("loss", names, "r") == "loss"
    assert resolve_metric_name("nDCG@10", names, "r") == "retrieval/after/nDCG@10"
    with pytest.raises(FinetuneError, match=r"is ambiguous among the metrics of r. Give one: a/x, b/x."):
        resolve_metric_name("x", names, "r")
    with pytest.raises(FinetuneError, match=r"r has no metric 'los'. Did you mean loss\?"):
        resolve_metric_name("los", names, "r")
    with pytest.raises(FinetuneError, match="logged none"):
        resolve_metric_name("loss", [], "r")


def test_last_value_does_not_read_a_long_file(tmp_path: Path) -> None:
    line = json.dumps({"step": 1, "loss": 1.0, **{f"seconds/{i}": 0.1 for i in range(20)}}).encode() + b"\n"
    (tmp_path / "m").write_bytes(line * 100_000 + b'{"loss": 0.5}\n' + line.replace(b'"loss"', b'"lost"') * 10)
    assert last_value(tmp_path / "m", "loss") == 0.5
    assert last_value(tmp_path / "m", "nowhere") is None
