from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from finetune.data.bad_rows import BadRows
from finetune.data.prepare import prepare
from finetune.data.prepared import Prepared
from finetune.data.prompts import Prompts
from finetune.data.sources.beir import Beir
from tests.data.tables import typed_source

LAYOUTS = {
    "pairs": {"anchor": ["a", "b", "c"], "positive": ["x", "y", "x"]},
    "triplets": {"anchor": ["a", "b"], "positive": ["x", "y"], "negative": ["n", None]},
    "several positives": {"query": ["a"], "positives": [["x", "y"]], "negatives": [["n", "m"]]},
    "scored pairs": {"text1": ["a", "b"], "text2": ["x", "y"], "score": [0.5, 0.25]},
    "scored lists": {"query": ["a", "b"], "documents": [["x", "y"], ["z"]], "scores": [[1.0, 2.0], [3.0]]},
    "judgments": {"query": ["a", "a"], "document": ["x", "y"], "grade": [1, 0]},
    "labelled": {"text": ["a", "b", "c", "d"], "label": ["1", "1", "2", "2"]},
    "texts": {"text": ["a", "b"]},
}


def same(one: Any, other: Any) -> bool:
    """Whether two of what a `Prepared` is made of are equal, arrays by their bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if is_dataclass(one):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return bool(one.equals(other)) if isinstance(one, pa.Array) else one == other


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_data_loads_equal(layout, tmp_path):
    source = typed_source(LAYOUTS[layout], prompts=Prompts("q: ", "") if layout == "pairs" else Prompts())
    found = prepare([source], None, BadRows())
    assert found.layouts == [layout]
    found.save(tmp_path)
    assert same(Prepared.load(tmp_path), found)
    assert not list(tmp_path.glob("*.pkl"))


def test_saved_judgments_load_equal(tmp_path):
    queries, corpus = pa.array(["q", "r"], pa.large_string()), pa.array(["x", "z"], pa.large_string())
    lost = np.array([1]), np.array([3.0])
    beir = Beir("my judgments", queries, corpus, np.array([0, 1]), np.array([1, 0]), np.array([1.0, 2.0]), *lost, 4)
    found = prepare([typed_source(LAYOUTS["pairs"])], beir, BadRows())
    found.save(tmp_path)
    assert same(Prepared.load(tmp_path), found)
    assert found.judgments is not None
    assert found.items.take(found.judgments.corpus) == ["x", "z"]
    assert (found.judgments.lost_query.tolist(), found.judgments.lost_grade.tolist()) == ([1], [3.0])


def test_several_saved_sources_load_equal(tmp_path):
    found = prepare([typed_source(LAYOUTS[name], name=name) for name in LAYOUTS], None, BadRows())
    found.save(tmp_path)
    assert same(Prepared.load(tmp_path), found)
