"""Searching in a folder of vectors: exact against NumPy, the index against exact, and mistakes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.embed.index import build_index
from finetune.embed.run import embed
from finetune.embed.search import search_folder
from finetune.errors import FinetuneError
from finetune.evaluation.ann import is_installed
from finetune.inference.load import get_model

QUERIES = ["red cat", "old river in the wind", "sun"]


@pytest.fixture(scope="module")
def vectors(folder, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "out"
    embed(folder, str(corpus), out, shard_rows=64, keep=["text"], device="cpu")
    return out


def test_exact_search_finds_what_numpy_finds(folder, table, vectors):
    model = get_model(folder, device="cpu")
    documents = model.encode(table["text"].to_pylist(), "document", normalize=True)
    for query in QUERIES:
        scores = documents @ model.encode([query], "query", normalize=True)[0]
        found = search_folder(vectors, query, 5, device="cpu")
        np.testing.assert_allclose([each.score for each in found], np.sort(scores)[::-1][:5], atol=1e-5)
        for each in found:
            row = int(each.id.removeprefix("d"))
            assert each.columns == {"text": table["text"][row].as_py()}
            assert each.score == pytest.approx(scores[row], abs=1e-5)


def test_int8_vectors_find_nearly_the_same(folder, corpus, vectors, tmp_path):
    embed(folder, str(corpus), tmp_path / "out", shard_rows=64, precision="int8", format="npy", device="cpu")
    for query in QUERIES:
        exact = search_folder(vectors, query, 20, device="cpu")
        found = search_folder(tmp_path / "out", query, 20, device="cpu")
        assert len({each.id for each in exact} & {each.id for each in found}) >= 17
        np.testing.assert_allclose([each.score for each in found], [each.score for each in exact], atol=0.01)


def test_binary_vectors_are_scored_by_their_signs(folder, table, corpus, tmp_path):
    embed(folder, str(corpus), tmp_path / "out", shard_rows=64, precision="binary", dimensions=20, device="cpu")
    model = get_model(folder, device="cpu")
    signs = np.where(model.encode(table["text"].to_pylist(), "document", dimensions=20) > 0, 1, -1)
    query = model.encode([QUERIES[0]], "query", dimensions=20, normalize=True)[0]
    expected = np.sort(signs @ query / np.sqrt(20))[::-1][:10]
    found = search_folder(tmp_path / "out", QUERIES[0], 10, device="cpu")
    np.testing.assert_allclose([each.score for each in found], expected, atol=1e-5)


@pytest.mark.skipif(not is_installed(), reason="needs finetune[index]")
def test_the_index_finds_what_exact_search_finds(vectors):
    build_index(vectors)
    for query in QUERIES:
        exact = search_folder(vectors, query, 10, device="cpu")
        found = search_folder(vectors, query, 10, index=True, device="cpu")
        np.testing.assert_allclose([each.score for each in found], [each.score for each in exact], atol=1e-4)
    (vectors / "index.usearch").write_bytes(b"nothing")
    with pytest.raises(FinetuneError, match="damaged"):
        search_folder(vectors, "red", index=True, device="cpu")
    (vectors / "index.usearch").unlink()


def test_the_command_prints_a_table_or_json(vectors):
    shown = CliRunner().invoke(app, ["search", str(vectors), "red cat", "-k", "3", "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    printed = CliRunner().invoke(app, ["search", str(vectors), "red cat", "-k", "3", "--device", "cpu", "--json"])
    entries = json.loads(printed.stdout)
    assert len(entries) == 3 and set(entries[0]) == {"id", "score", "text"}


def test_mistakes_are_one_sentence(folder, tiny_model, vectors, tmp_path):
    for k in (0, "x"):
        with pytest.raises(FinetuneError, match=f"k={k!r} is not a number"):
            search_folder(vectors, "red", k, device="cpu")
    with pytest.raises(FinetuneError, match="given by a NoneType"):
        search_folder(None, "red", device="cpu")
    with pytest.raises(FinetuneError, match="has no index"):
        search_folder(vectors, "red", index=True, device="cpu")
    with pytest.raises(FinetuneError, match="no prompt 'nope'"):
        search_folder(vectors, "red", prompt="nope", device="cpu")
    with pytest.raises(FinetuneError, match="not the model of these vectors"):
        search_folder(vectors, "red", model=tiny_model, device="cpu")
    with pytest.raises(FinetuneError, match="not a folder that finetune embed wrote"):
        search_folder(tmp_path, "red", device="cpu")
    for query in ("", " \n"):
        with pytest.raises(FinetuneError, match="the query is empty"):
            search_folder(vectors, query, device="cpu")
    (tmp_path / "corpus.csv").write_text("text\na red cat\n")
    with pytest.raises(FinetuneError, match=r"is a file.*data\.path=.*corpus\.csv out=vectors"):
        search_folder(tmp_path / "corpus.csv", "red")
    (tmp_path / "unreadable/manifest.json").mkdir(parents=True)
    with pytest.raises(FinetuneError, match=r"could not read .*manifest\.json: there is a folder"):
        search_folder(tmp_path / "unreadable", "red")
    damaged = shutil.copytree(vectors, tmp_path / "damaged")
    (damaged / "vectors-00002.parquet").write_bytes(b"nothing")
    with pytest.raises(FinetuneError, match="missing or damaged"):
        search_folder(damaged, "red", device="cpu")
    content = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(content | {"complete": False}))
    with pytest.raises(FinetuneError, match="not complete"):
        search_folder(damaged, "red", device="cpu")
    (damaged / "manifest.json").write_text("{")
    with pytest.raises(FinetuneError, match="damaged"):
        search_folder(damaged, "red", device="cpu")
