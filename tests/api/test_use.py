"""Embedding, searching, exporting and publishing from Python: what the commands do, with all kinds of data."""

import dataclasses
import inspect
import os
import subprocess
import sys
from importlib import import_module

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import finetune
from finetune.embed.settings import EmbedSettings
from finetune.formats.targets import MAX_LOSS
from tests.formats.hub import TOKEN, running_hub

TEXTS = ["red cat", "old river", "small sun", "red cat"]
IDS = ["a", "b", "c", "d"]
ROWS = [{"id": name, "text": text} for name, text in zip(IDS, TEXTS, strict=True)]
KINDS = {
    "dicts": ROWS,
    "columns": {"id": IDS, "text": TEXTS},
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "arrow": pa.Table.from_pylist(ROWS),
    "datasets": datasets.Dataset.from_list(ROWS),
}


@pytest.fixture(scope="module")
def expected(tiny_model):
    return finetune.get_model(tiny_model, device="cpu").encode(TEXTS)


def vectors_of(out):
    table = pq.read_table(sorted(out.glob("*.parquet")))
    return table["id"].to_pylist(), np.stack(table["vector"].to_numpy())


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_every_kind_of_data_is_embedded(folder, tiny_model, expected, data):
    done = finetune.embed(tiny_model, data, folder / "out", device="cpu", show_progress=False)
    assert (done.rows, done.texts, done.shards) == (4, 3, 1)
    ids, vectors = vectors_of(folder / "out")
    assert ids == IDS
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_files_tuples_and_data_sets_are_embedded(folder, tiny_model, expected, capsys):
    pd.DataFrame(ROWS).to_csv(folder / "corpus.csv", index=False, sep=";")
    csv = finetune.build_dataset(folder / "corpus.csv", delimiter=";", columns=["id", "text"])
    frame = finetune.build_dataset(pd.DataFrame(ROWS), columns=["id", "text"], limit=3, validation_fraction=0)
    tuples = [tuple(row.values()) for row in ROWS]
    options = {"columns": {"id": "1", "text": "2"}}
    given = {"path": folder / "corpus.csv", "list": [str(folder / "corpus.csv")], "set": csv, "frame": frame}
    for name, data in {**given, "tuples": tuples}.items():
        options = {"columns": {"id": "1", "text": "2"}} if name == "tuples" else {}
        done = finetune.embed(
            tiny_model, data, folder / name, device=["cpu"], show_progress=False, on_bad_rows="skip", **options
        )
        ids, vectors = vectors_of(folder / name)
        assert done.rows == len(ids) and ids == IDS[: done.rows] and done.rows == (3 if name == "frame" else 4)
        np.testing.assert_allclose(vectors, expected[: done.rows], atol=1e-5)
    assert capsys.readouterr().out == ""
    finetune.embed(tiny_model, ROWS, folder / "shown", device="cpu")
    assert "Rows: 4, distinct texts: 3" in capsys.readouterr().out


def test_a_folder_is_searched_with_what_was_kept(folder, tiny_model):
    pd.DataFrame(ROWS).to_csv(folder / "corpus.csv", index=False, sep=";")
    options = {"data_options": {"delimiter": ";"}, "keep": ["text"], "limit": 3, "device": "cpu"}
    finetune.embed(tiny_model, folder / "corpus.csv", folder / "out", **options, show_progress=False)
    found = finetune.search_vectors(folder / "out", "old river", k=2, device="cpu")
    assert found[0].id == "b" and found[0].columns == {"text": "old river"} and len(found) == 2


def test_the_defaults_are_those_of_the_commands():
    parameters = inspect.signature(import_module("finetune.api.vectors").embed).parameters
    for each in dataclasses.fields(EmbedSettings):
        if each.name not in ("out", "device", "keep"):  # None and an empty tuple
            assert parameters[each.name].default == each.default, each.name
    parameters = inspect.signature(import_module("finetune.api.publish").export).parameters
    assert parameters["max_loss"].default == MAX_LOSS


WRONG = {
    "no data": (None, {}, "data.path: is not set"),
    "a list of texts": (TEXTS, {}, "a list of texts names files, and there is no file 'red cat'. Give texts as rows"),
    "an index": (ROWS, {"index": "faiss"}, "there is no index 'faiss'"),
    "an option": (ROWS, {"data_options": {"delimitr": ";"}}, "Did you mean data.delimiter"),
    "a device": (ROWS, {"device": "gpu"}, "device: 'gpu' is not a device"),
    "no folder": (ROWS, {"out": None}, "out: is not set"),
}


@pytest.mark.parametrize(("data", "settings", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_leaves_no_folder(folder, tiny_model, data, settings, message):
    before = sorted(folder.iterdir())
    with pytest.raises(finetune.FinetuneError, match=message):
        finetune.embed(tiny_model, data, **{"out": folder / "out"} | settings)
    assert sorted(folder.iterdir()) == before


def test_an_export_is_measured_and_loads(project, tmp_path):
    result = finetune.export("default/first", ["fp16"], tmp_path / "fp16", show_progress=False)
    assert result.folder == tmp_path / "fp16" and result.formats["fp16"].changes
    assert finetune.get_model(tmp_path / "fp16", device="cpu").encode(["a"]).shape == (1, 32)


def test_what_cannot_be_exported_or_published_is_refused(project):
    for formats in (None, 3, []):
        with pytest.raises(finetune.FinetuneError, match="no format"):
            finetune.export("default/first", formats)
    with pytest.raises(finetune.FinetuneError, match="not a loss of a metric"):
        finetune.export("default/first", "fp16", max_loss="x")
    with pytest.raises(finetune.FinetuneError, match="None is not a name of a repository"):
        finetune.push("default/first", None)


def test_a_model_is_published(folder, tiny_model):
    program = f"import finetune; print(finetune.push({str(tiny_model)!r}, 'team/model'))"
    with running_hub() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment = os.environ | settings
        printed = subprocess.check_output([sys.executable, "-c", program], cwd=folder, text=True, env=environment)
        assert printed.splitlines()[-1] == f"{hub.url}/team/model"
        assert hub.repos == {"team/model": True} and "model.safetensors" in hub.files["team/model"]
