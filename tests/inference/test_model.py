"""A model in use: what it is loaded from, order and duplicates, streams, threads, processes, memory, mistakes."""

from __future__ import annotations

import dataclasses
import doctest
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import UserList
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.tokens.tokenize import FastTokenizer
from finetune.errors import FinetuneError, RunError
from finetune.inference import encode as encoding
from finetune.inference import known_models, load
from finetune.inference import model as inference_model
from finetune.inference.known_models import describe_models, list_models
from finetune.inference.load import build_model, get_model
from finetune.models.text import TextEncoder
from finetune.runs.artifact import ArtifactError, write_artifact
from finetune.runs.directory import RunDirectory
from tests.conftest import WORDS
from tests.models.test_folders import build
from tests.models.tiny import tiny

TEXTS = ["red cat", "", "small old dog", "blue " * 90, "x", "red cat", "tree"]


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    prompts = {"prompts": {"query": "red ", "passage": "tree "}}
    return build(tiny_model, tmp_path_factory.mktemp("model") / "model", model=prompts)


@pytest.fixture(scope="module")
def model(folder):
    return get_model(folder, device="cpu")


FRAME = pd.DataFrame({"question": ["red", "cat", "tree"], "text": WORDS[:3]})


class Uneven(UserList):
    """Has another length than it has items."""

    def __len__(self):
        return len(self.data) + 1


class CountedTexts:
    """Counts the texts that are embedded."""

    def __init__(self, monkeypatch, model):
        self.texts = []
        embed = model._embedder.embed
        monkeypatch.setattr(model._embedder, "embed", lambda block: self._count(block) or embed(block))

    def _count(self, block):
        self.texts += block.texts.to_pylist()


# Order and duplicates


@settings(deadline=None)
@given(st.lists(st.sampled_from([*WORDS, "", "red cat", "a b c d e f"]), max_size=60))
def test_rows_are_in_the_order_of_the_items(model, texts):
    alone = {text: model.encode([text])[0] for text in set(texts)}
    found = model.encode(texts)
    assert found.shape == (len(texts), model.width)
    for row, text in zip(found, texts, strict=True):
        np.testing.assert_allclose(row, alone[text], atol=1e-5)


def test_each_distinct_text_is_embedded_once_the_longest_first(model, monkeypatch):
    counted = CountedTexts(monkeypatch, model)
    found = model.encode(TEXTS * 3, "query")
    assert sorted(counted.texts) == sorted(set(TEXTS))
    assert counted.texts[0] == "blue " * 90
    np.testing.assert_array_equal(found[:7], found[7:14])


def test_blocks_are_joined(model, monkeypatch):
    whole = model.encode(TEXTS)
    monkeypatch.setattr(encoding, "BLOCK_TEXTS", 2)
    np.testing.assert_allclose(model.encode(TEXTS), whole, atol=1e-5)


class RecordingEmbedder:
    """Embeds nothing and records how many texts the blocks have."""

    def __init__(self, width):
        self.width, self.sizes = width, []

    def embed_all(self, blocks):
        for block in blocks:
            self.sizes.append(len(block))
            yield np.zeros((len(block), self.width), np.float32)


@pytest.mark.parametrize(
    ("texts", "processes", "sizes"),
    [(300, 1, [300]), (300, 2, [64] * 4 + [44]), (1000, 2, [125] * 8), (20_000, 2, [2_500] * 8), (50, 2, [50])],
)
def test_several_processes_share_few_texts(model, texts, processes, sizes):
    embedder = RecordingEmbedder(model.width)
    options = dataclasses.replace(model._options(None, "auto", False, None, None), processes=processes)
    encoding.encode(embedder, [str(number) for number in range(texts)], options)
    assert embedder.sizes == sizes


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_the_size_of_a_micro_batch_changes_nothing(model, batch_tokens):
    np.testing.assert_allclose(model.encode(TEXTS, batch_tokens=batch_tokens), model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        iter,
        np.array,
        pa.array,
        lambda texts: pa.chunked_array([texts[:2], texts[2:]]),
        lambda texts: pa.array(texts).dictionary_encode(),
        lambda texts: pytest.importorskip("pandas").Series(texts, index=range(9, 9 + len(texts))),
        lambda texts: pytest.importorskip("polars").Series(texts),
    ],
)
def test_items_of_every_type(model, make):
    np.testing.assert_array_equal(model.encode(make(TEXTS)), model.encode(TEXTS))
    np.testing.assert_array_equal(np.concatenate(list(model.encode_stream(make(TEXTS), block=3))).shape, (7, 32))


def test_no_items(model):
    assert model.encode([]).shape == (0, 32)
    assert model.encode([], dimensions=5).shape == (0, 5)
    assert model.encode([], precision="binary").shape == (0, 4)
    assert model.encode([], precision="int8").shape == (0, 32)
    assert list(model.encode_stream([])) == []
    assert model.rerank("red", []) == []


def test_long_texts_are_cut_as_told(folder):
    short = get_model(folder, max_length=8)
    np.testing.assert_allclose(short.encode(["red " * 90]), short.encode(["red " * 6]), atol=1e-6)
    longer = get_model(folder, max_length=16).encode(["red " * 90])
    assert np.abs(longer - short.encode(["red " * 90])).max() > 1e-4
    with pytest.raises(FinetuneError, match="reads 64 tokens"):
        get_model(folder, max_length=65)


def test_out_is_filled_and_returned(model, tmp_path):
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (7, 32))
    assert model.encode(TEXTS, out=out) is out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.encode(TEXTS))
    with pytest.raises(FinetuneError, match=r"out is an array \(7, 31\)"):
        model.encode(TEXTS, out=np.empty((7, 31), np.float32))


def test_progress_is_shown_only_if_asked_for(model, monkeypatch):
    shown = []
    monkeypatch.setattr(encoding.Bar, "update", lambda bar, done: shown.append((done, bar.total)))
    model.encode(TEXTS)
    assert shown == []
    monkeypatch.setattr(encoding, "BLOCK_TEXTS", 4)
    model.encode(TEXTS, show_progress=True)
    assert shown == [(4, 6), (6, 6)]


def test_one_text_for_which_memory_does_not_suffice(folder, monkeypatch):
    model = get_model(folder, device="cpu")

    def forward(self, values, lengths_N=None, token_embedding=None):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TextEncoder, "forward", forward)
    with pytest.raises(RunError, match="memory ran out") as caught:
        model.encode(TEXTS)
    assert "max_length" in caught.value.advice


# Streams


def test_a_stream_is_read_no_further_than_its_block(model):
    read = []

    def texts():
        for i in range(100):
            read.append(i)
            yield f"red {i}"

    stream = model.encode_stream(texts(), block=10)
    assert next(stream).shape == (10, 32)
    assert len(read) <= 20


def test_memory_does_not_grow_with_a_stream(model):
    def peak(blocks):
        tracemalloc.start()
        for _ in model.encode_stream(chain.from_iterable(repeat(["red cat", "tree"] * 250, blocks)), block=500):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(30) < 2 * peak(3)


def test_search_through_a_stream_equals_search_through_an_array(model, monkeypatch):
    corpus = [f"{a} {b}" for a in WORDS[:8] for b in WORDS]
    vectors = model.encode(corpus, "document")
    expected = model.search(["red cat", "old tree"], vectors, k=7)
    monkeypatch.setattr("finetune.inference.search._ROWS", 11)
    found = model.search(["red cat", "old tree"], iter(corpus), k=7)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert (np.sort(found.indices, axis=1) == np.sort(expected.indices, axis=1)).mean() > 0.8
    assert model.search(["red"], corpus[:3], k=10).indices.shape == (1, 3)


def test_equal_documents_are_in_the_order_of_the_corpus(model):
    assert model.search(["red"], ["tree", "red", "red", "red"], k=3).indices[0].tolist() == [1, 2, 3]


# Threads and processes


def test_several_threads_at_once(folder, model):
    texts = [[f"{word} {i} {j} " * 40 for j in range(70)] for i, word in enumerate(WORDS[:12])]
    expected = [model.encode(each) for each in texts]
    shared = get_model(folder, device="cpu")  # whose words are not cached
    barrier = threading.Barrier(6, timeout=60)

    def encode(first):
        barrier.wait()
        return [shared.encode(texts[(first + i) % 12]) for i in range(12)]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(encode, range(6)))
    for first, rows in enumerate(found):
        for i, emb_ND in enumerate(rows):
            np.testing.assert_allclose(emb_ND, expected[(first + i) % 12], atol=1e-5)


def test_a_tokenizer_is_used_by_one_thread_at_a_time(folder, monkeypatch):
    shared, inside, most = get_model(folder, device="cpu"), [], []
    tokenize = FastTokenizer._by_transformers

    def recorded(self, texts):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        chunk = tokenize(self, texts)
        inside.pop()
        return chunk

    monkeypatch.setattr(FastTokenizer, "_by_transformers", recorded)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shared.encode, [[word] for word in WORDS]))
    assert most == [1] * len(WORDS)


def test_several_devices(folder, model, monkeypatch):
    monkeypatch.setattr(encoding, "BLOCK_TEXTS", 3)
    texts = [*TEXTS, *(f"{a} {b}" for a in WORDS for b in WORDS[:3])]
    with get_model(folder, device=["cpu", "cpu"]) as several:
        np.testing.assert_allclose(several.encode(texts, "query"), model.encode(texts, "query"), atol=1e-5)
        np.testing.assert_allclose(several.encode(texts[:4]), model.encode(texts[:4]), atol=1e-5)
        with pytest.raises(FinetuneError, match=r"items\[0\] is None"):
            several.encode([None])
        os.kill(next(iter(several._embedder._executor._processes)), signal.SIGKILL)
        with pytest.raises(RunError, match="ended unexpectedly"):
            for _ in range(100):  # until its end is noticed
                several.encode(texts)
    with pytest.raises(RunError, match="was closed"):
        several.encode(texts)


def test_the_gradient_is_never_recorded(model):
    assert not any(weight.requires_grad for weight in model._encoder.parameters())
    assert not model._encoder.training


def test_memory_that_runs_out_is_answered_by_smaller_micro_batches(folder, monkeypatch):
    model = get_model(folder, device="cpu")
    expected, sizes = model.encode(WORDS * 30), []
    forward = TextEncoder.forward

    def limited(self, values, lengths_N=None, token_embedding=None):
        sizes.append(len(values))
        if len(values) > 600:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, values, lengths_N, token_embedding)

    monkeypatch.setattr(TextEncoder, "forward", limited)
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]
    found = model.encode(texts, batch_tokens=4096)
    assert max(sizes) > 600
    monkeypatch.setattr(TextEncoder, "forward", forward)
    np.testing.assert_allclose(found, model.encode(texts), atol=1e-5)
    assert expected.shape == (600, 32)


# What a model is loaded from


@pytest.fixture
def run(folder, tmp_path):
    import shutil

    path = tmp_path / "outputs" / "first" / "run"
    path.mkdir(parents=True)
    dimensions = {"_target_": "finetune.losses.composed.Matryoshka", "dimensions": [32, 16, 8]}
    (path / "config.yaml").write_text(json.dumps({"loss": dimensions}))
    (path / "overrides.yaml").write_text("[]")
    shutil.copytree(folder, path / "model")
    return RunDirectory(path)


def test_a_run_by_path_name_and_object(run, model, monkeypatch):
    monkeypatch.chdir(run.path.parents[2])
    for given_as in (run.path, str(run.path), "run", "first/run", run):
        np.testing.assert_array_equal(get_model(given_as).encode(TEXTS), model.encode(TEXTS))
    assert get_model(run).info().matryoshka == (16, 8)


def test_a_run_without_a_model_yet(run):
    import shutil

    shutil.rmtree(run.model)
    run.write_status("running")
    with pytest.raises(FinetuneError, match=r"has no model yet \(it is interrupted\)"):
        get_model(run.path)


def test_an_artifact_is_extracted_once(folder, model, tmp_path):
    write_artifact(folder, tmp_path / "model.zip")
    first = get_model(tmp_path / "model.zip")
    np.testing.assert_array_equal(first.encode(TEXTS), model.encode(TEXTS))
    assert get_model(str(tmp_path / "model.zip")).folder == first.folder
    assert first.digest == model.digest


def test_an_artifact_that_is_cut_off(folder, tmp_path):
    write_artifact(folder, tmp_path / "model.zip")
    content = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "model.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="cut off"):
        get_model(tmp_path / "model.zip")


@pytest.mark.parametrize("kind", ["points", "vectors", "two_towers"])
def test_models_that_only_finetune_has(tmp_path, kind):
    from finetune.models.image import ImageEncoder
    from finetune.models.points import PointEncoder
    from finetune.models.text_image import TwoTowers
    from finetune.models.vectors import VectorEncoder
    from tests.models.test_encoders import pictures, save

    random = np.random.default_rng(0)
    if kind == "points":
        encoder, items = PointEncoder(point_widths=[8, 16], head_widths=[8]), list(random.random((5, 20, 3)))
    elif kind == "vectors":
        encoder, items = VectorEncoder(input_width=6), random.random((5, 6))
    else:
        towers = TextEncoder(str(tiny("bert", tmp_path / "bert"))), ImageEncoder(str(tiny("vit", tmp_path / "vit")))
        encoder, items = TwoTowers(*towers, output_width=10), [*pictures(3), "red cat", "tree"]
    found = get_model(save(encoder, tmp_path / "saved")).encode(items)
    assert found.shape == (5, encoder.width)
    if kind != "two_towers":
        values = torch.from_numpy(encoder.prepare(list(items), None))
        np.testing.assert_allclose(found, encoder.eval()(values).detach().numpy(), atol=1e-5)


def test_a_base_model_as_a_training_starts_with_it(tiny_model, folder):
    base = build_model(tiny_model, device="cpu", keep_layers=1, output_width=6, pooling="cls")
    emb_ND = base.encode(TEXTS)
    assert emb_ND.shape == (7, 6)
    np.testing.assert_allclose(np.linalg.norm(emb_ND, axis=1), 1, atol=1e-5)
    assert build_model(folder).encode(TEXTS).shape == (7, 32)
    with pytest.raises(FinetuneError, match=r"no option 'poling'.*pooling"):
        build_model(tiny_model, poling="cls")
    with pytest.raises(FinetuneError, match="one device"):
        build_model(tiny_model, device=["cpu", "cpu"])


def test_bf16_is_near_fp32(folder, model):
    half = get_model(folder, device="cpu", dtype="bfloat16")
    found, expected = half.encode(TEXTS, normalize=True), model.encode(TEXTS, normalize=True)
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > 0.999
    assert np.abs(found - expected).max() > 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_gives_the_same_vectors(minilm, dtype):
    texts = [f"{a} {b}" * length for a in WORDS for b in WORDS for length in (1, 9, 60)]
    found = get_model(minilm, device="cuda", dtype=dtype).encode(texts)
    expected = get_model(minilm, device="cpu").encode(texts)
    assert (found * expected).sum(axis=1).min() > (0.99999 if dtype == "float32" else 0.999)


@pytest.mark.parametrize("module", [load, known_models, inference_model])
def test_the_examples_in_docstrings(module):
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


def test_info(model, folder):
    info = model.info()
    assert (info.kind, info.width, info.max_length, info.similarity) == ("text", 32, 24, "cosine")
    assert info.prompts == {"query": "red ", "document": "", "passage": "tree "}
    assert info.parameters == sum(weight.numel() for weight in TextEncoder(str(folder)).parameters())
    assert len(info.revision) == 64


def test_calibrated_ranges_are_kept_with_the_model(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "own")
    model = get_model(tmp_path / "own")
    with pytest.raises(FinetuneError, match="calibrate"):
        model.encode(["red"], precision="int8")
    with pytest.raises(FinetuneError, match="calibrate"):
        model.encode_stream(TEXTS, precision="int8")
    ranges = model.calibrate(WORDS, save=True)
    again = get_model(tmp_path / "own", precision="int8")
    found = again.encode(["red", "cat"])
    np.testing.assert_array_equal(found, model.encode(["red", "cat"], precision="int8"))
    np.testing.assert_array_equal(np.concatenate(list(again.encode_stream(["red", "cat"], block=1))), found)
    steps = (ranges[1] - ranges[0]) / 255
    restored = (found.astype(np.float32) + 128.5) * steps + ranges[0]
    np.testing.assert_allclose(restored, model.encode(["red", "cat"]), atol=float(steps.max()))


# Mistakes


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (lambda model: model.encode("red cat"), "one item"),
        (lambda model: model.encode(None), "None"),
        (lambda model: model.encode(7), "of type int"),
        (lambda model: model.encode({"a": "b"}), "of type dict"),
        (lambda model: model.encode(["red", None]), r"items\[1\] is None"),
        (lambda model: model.encode(["red", float("nan")]), r"items\[1\] is NaN"),
        (lambda model: model.encode([1, 2]), r"items\[0\] is the number 1"),
        (lambda model: model.encode(np.array([0.5, 1])), r"items\[0\] is the number 0\.5"),
        (lambda model: model.encode(pa.array([1, 2])), "Arrow array of int64"),
        (lambda model: model.encode(pa.array(["red", None])), r"items\[1\] is None"),
        (lambda model: model.encode(["red", "\ud800"]), r"items\[1\].*surrogate"),
        (lambda model: model.encode([("red", "cat")]), r"items\[0\] is a tuple"),
        (lambda model: model.encode(["red"], "qury"), "document, passage, query.*Did you mean query"),
        (lambda model: model.encode(["red"], dimensions=33), "have 32"),
        (lambda model: model.encode(["red"], dimensions=0), "have 32"),
        (lambda model: model.encode(["red"], precision="int4"), "float32, int8, binary"),
        (lambda model: model.encode(["red"], batch_tokens=0), "batch_tokens=0"),
        (lambda model: model.encode_stream(["red"], block=0), "block=0"),
        (lambda model: model.encode_stream("red"), "one item"),
        (lambda model: model.similarity([1.0, 2.0], [[1.0, 2.0]]), "a has 1 dimension,"),
        (lambda model: model.similarity([[1.0, 2.0]], [[1.0, 2.0, 3.0]]), "2 and 3 dimensions"),
        (lambda model: model.similarity([[1.0, float("nan")]], [[1.0, 2.0]]), "not finite"),
        (lambda model: model.similarity(["red"], ["cat"]), "not floating-point numbers"),
        (lambda model: model.similarity([[1.0], [1.0, 2.0]], [[1.0]]), "several lengths"),
        (lambda model: model.search(["red"], []), "corpus.*empty"),
        (lambda model: model.search(["red"], ["cat"], k=0), "k=0"),
        (lambda model: model.search(["red"], np.zeros((3, 31), np.float32)), "32 and 31"),
        (lambda model: model.search(["red"], ["cat"], k=1.0), r"k=1\.0 is not a number"),
        (lambda model: model.search(["red"], ["cat"], k=True), "k=True"),
        (lambda model: model.rerank("red", WORDS, k=-1), "k=-1"),
        (lambda model: model.rerank("red", WORDS, k=0), "k=0"),
        (lambda model: model.rerank("red", WORDS, k="2"), "k='2'"),
        (lambda model: model.encode(["red"], dimensions=True), "dimensions=True"),
        (lambda model: model.encode(["red"], batch_tokens=True), "batch_tokens=True"),
        (lambda model: model.encode([b"red"]), r"items\[0\] is a bytes"),
        (lambda model: model.encode(np.array(["red", b"cat"], object)), r"items\[1\] is a bytes"),
        (lambda model: model.encode(FRAME), r"a table \(DataFrame\)\. Give a column, frame\['text'\]"),
        (lambda model: model.encode(pl.DataFrame(FRAME)), r"a table \(DataFrame\)"),
        (lambda model: model.encode(pa.table(FRAME)), r"a table \(Table\)"),
        (lambda model: list(model.encode_stream(FRAME)), "a table"),
        (lambda model: model.calibrate(FRAME), "a table"),
        (lambda model: model.search(FRAME, WORDS), "a table"),
        (lambda model: model.search(WORDS, FRAME), "a table"),
        (lambda model: model.rerank("red", FRAME), "documents is a table"),
        (lambda model: model.encode(Uneven(["red", "cat"])), "has the length 3 and yields 2 items"),
        (lambda model: model.score([("red", "cat")]), "cross-encoder"),
        (lambda model: model.rerank("red", "cat"), "documents is one item"),
        (lambda model: model.rerank(None, ["cat"]), r"query\[0\] is None"),
        (lambda model: get_model(model.folder, dimensions=33), "have 32"),
        (lambda model: get_model(model.folder, dimensions=0), "have 32"),
        (lambda model: get_model(model.folder, precision="int3"), "int8"),
        (lambda model: get_model(model.folder, dtype="float8"), "bfloat16"),
        (lambda model: get_model(model.folder, max_length=0), "max_length=0"),
        (lambda model: get_model(model.folder, max_length="9"), "max_length='9'"),
        (lambda model: build_model(model.folder, keep_layers=9), r"^keep_layers=9"),
        (lambda model: get_model(model.folder, device="gpu7"), "device='gpu7' is not a device.*cpu"),
        (lambda model: get_model(model.folder, device="cuda:99"), "no such device"),
        (lambda model: get_model(model.folder, device=[]), "empty list"),
        (lambda model: get_model(None), "NoneType"),
        (lambda model: get_model(""), "str"),
    ],
)
def test_a_mistake_is_one_sentence_and_advice(model, use, named):
    with pytest.raises(FinetuneError, match=named) as caught:
        use(model)
    assert caught.value.advice
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("item", ["red", None, ("red",), ("red", "cat", "dog"), ("red", None)])
def test_items_of_a_cross_encoder_are_pairs(tmp_path, item):
    from tests.models.test_encoders import save

    model = get_model(save(_cross_encoder(tmp_path), tmp_path / "saved"))
    assert model.score([("red", "cat")]).shape == (1,)
    assert model.score([]).shape == (0,)
    with pytest.raises(FinetuneError):
        model.encode([item])
    with pytest.raises(FinetuneError, match="no prompt"):
        model.encode([("red", "cat")], "query")
    with pytest.raises(FinetuneError, match="rerank"):
        model.search(["red"], ["cat"])


def _cross_encoder(tmp_path):
    from finetune.models.cross_encoder import CrossEncoder

    return CrossEncoder(str(tiny("bert", tmp_path / "bert")))


def test_a_folder_with_pickled_weights_is_refused(tiny_model, tmp_path):
    folder = build(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(FinetuneError, match="pickles are not read") as caught:
        get_model(folder)
    assert "model." not in str(caught.value).replace("model.safetensors", "")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FinetuneError, match=r"no config\.json"):
        get_model(tmp_path)
    with pytest.raises(FinetuneError, match="does not exist"):
        get_model(tmp_path / "none")
    with pytest.raises(FinetuneError, match=r"neither a folder nor a hub id|not found"):
        get_model("no such model")


def test_a_message_has_the_name_that_was_given(minilm):
    name = "sentence-transformers/all-MiniLM-L6-v2"
    with pytest.raises(FinetuneError, match=f"^max_length=1000: {name} reads 512 tokens"):
        get_model(name, max_length=1000)
    with pytest.raises(FinetuneError, match=f"^keep_layers=9 is more than the 6 layers of {name}"):
        build_model(name, keep_layers=9)


def test_what_cannot_be_loaded_is_refused_before_torch_is_imported(tmp_path, model):
    code = (
        "import sys, finetune\n"
        "for call in (lambda: finetune.get_model('foo/bar'), lambda: finetune.get_model('foo/bar', precision='half'),"
        " lambda: finetune.build_model('foo/bar')):\n"
        "    try: call()\n"
        "    except finetune.FinetuneError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    assert "foo/bar not found" in done.stdout and "precision='half' is unknown" in done.stdout


# Known models


def test_known_models_are_complete_and_none_is_listed_twice():
    table = describe_models()
    assert len({model.name for model in table}) == len(table) >= 40
    for model in table:
        assert model.width > 0, model
        assert model.model in {path.stem for path in Path("conf/model").glob("*.yaml")}, model
        assert all(count < model.width for count in model.matryoshka), model
    assert "bge-m3" in repr(table)
    assert "<td>BAAI/bge-m3</td>" in table._repr_html_()
    assert "accept the terms" in repr(describe_models("search"))
    assert len(table.columns()["name"]) == len(table)


def test_the_list_of_known_models_can_be_extended(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    own.write_text(
        "- {name: me/mine, model: bert, width: 8, tasks: [search]}\n- {name: BAAI/bge-m3, model: bert, width: 9}"
    )
    monkeypatch.setenv("FINETUNE_MODELS", str(own))
    assert "me/mine" in list_models("search")
    assert {model.width for model in describe_models() if model.name == "BAAI/bge-m3"} == {9}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- {name: a, model: bert, width: 8, licence: MIT}", "licence.*license"),
        ("- {name: a}", "no name, model and width"),
        ("a: b", "not a list"),
        ("- [", "cannot be read"),
        ("- 7", "no name"),
    ],
)
def test_a_mistake_in_the_list_of_a_user(tmp_path, monkeypatch, content, named):
    (tmp_path / "own.yaml").write_text(content)
    monkeypatch.setenv("FINETUNE_MODELS", str(tmp_path / "own.yaml"))
    with pytest.raises(FinetuneError, match=named):
        list_models()
    monkeypatch.setenv("FINETUNE_MODELS", str(tmp_path / "none.yaml"))
    with pytest.raises(FinetuneError, match="cannot be read"):
        list_models()


def test_an_unknown_task():
    with pytest.raises(FinetuneError, match="search"):
        list_models("serch")


def test_the_list_and_the_way_to_a_model_need_no_torch():
    code = (
        "import sys, finetune.inference.known_models, finetune.inference.locate as where;"
        "where.locate('sentence-transformers/all-MiniLM-L6-v2'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
