"""The vectors of `Model` equal those of sentence-transformers, for every kind of model that it can load."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers import models as st_models

from finetune.inference.load import get_model
from finetune.models.st_format.json_files import write_json
from tests.models.test_encoders import pictures
from tests.models.test_folders import BASE, FLAGS, TABLES, build, dense, edit, table
from tests.models.tiny import tiny

NORMALIZE = (f"{BASE}.normalize.Normalize", {})
# An empty text, one that is cut, one that occurs twice, characters that no tokenizer knows.
TEXTS = ["red cat", "", "small old dog and a new house", "blue " * 40, "x", "red cat", "漢字 ünï", "a\nb\tc  d"]
PROMPTS = {"prompts": {"query": "red stone ", "passage": "tree ", "other": "old "}, "default_prompt_name": "other"}


def theirs(folder, **settings):
    return SentenceTransformer(str(folder), device="cpu", **settings)


def assert_close(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", [*FLAGS, "two"])
def test_every_pooling(tiny_model, tmp_path, pooling):
    flags = ["mean_tokens", "cls_token"] if pooling == "two" else [pooling]
    config = {"word_embedding_dimension": 32, **{f"pooling_mode_{flag}": True for flag in flags}}
    folder = build(tiny_model, tmp_path / "model", pooling=config)
    assert_close(get_model(folder).encode(TEXTS), theirs(folder).encode(TEXTS))


@pytest.mark.parametrize(
    "after", [[NORMALIZE], [dense(32, 20)], [dense(32, 20), NORMALIZE], [("LayerNorm", {"dimension": 32})]]
)
@pytest.mark.parametrize("settings", [{}, {"truncate_dim": 7, "similarity_fn_name": "dot"}])
def test_every_module_and_fewer_dimensions(tiny_model, tmp_path, after, settings):
    folder = build(tiny_model, tmp_path / "model", *after, model=settings)
    ours, expected = get_model(folder), theirs(folder)
    assert_close(ours.encode(TEXTS), expected.encode(TEXTS))
    assert_close(ours.encode(TEXTS, dimensions=5), expected.encode(TEXTS, truncate_dim=5))
    unit = expected.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    assert_close(ours.encode(TEXTS, dimensions=5, normalize=True), unit)
    assert_close(get_model(folder, dimensions=3).encode(TEXTS), theirs(folder, truncate_dim=3).encode(TEXTS))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", ["mean", "cls", "max", "weightedmean", "lasttoken"])
def test_prompts(tiny_model, tmp_path, mode, include_prompt):
    pooling = {"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": include_prompt}
    folder = build(tiny_model, tmp_path / "model", pooling=pooling, model=PROMPTS)
    ours, expected = get_model(folder), theirs(folder)
    texts = [text for text in TEXTS if text]  # of a prompt alone sentence-transformers divides by zero tokens
    assert_close(ours.encode(texts), expected.encode(texts))
    assert_close(ours.encode(texts, "query"), expected.encode(texts, prompt_name="query"))
    assert_close(ours.encode(texts, "document"), expected.encode(texts, prompt_name="passage"))
    assert np.abs(ours.encode(texts, "query") - ours.encode(texts, "document")).max() > 1e-3
    assert np.isfinite(ours.encode([""], "query")).all()


def test_query_and_document_have_no_prompt_where_the_model_has_none(tiny_model, tmp_path):
    model = get_model(build(tiny_model, tmp_path / "model"))
    for prompt in ("query", "document"):
        np.testing.assert_array_equal(model.encode(TEXTS, prompt), model.encode(TEXTS))


KINDS = ["bert", "mpnet", "xlm-roberta", "modernbert", "deberta", "t5", "qwen3"]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_folders_of_every_architecture(tmp_path, kind):
    folder = tiny(kind, tmp_path / kind)
    assert_close(get_model(folder, max_length=30).encode(TEXTS), _cut(theirs(folder), 30).encode(TEXTS))


def _cut(model, length):
    model.max_seq_length = length
    return model


@pytest.mark.parametrize("weights", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("after", [(), (("Normalize", {}),)], ids=["raw", "normalized"])
def test_static_tables(tiny_model, tmp_path, weights, after):
    folder = table(tiny_model, tmp_path / "model", after=after, settings=PROMPTS, **weights)
    ours, expected = get_model(folder), theirs(folder)
    assert ours.kind == "static"
    assert_close(ours.encode(TEXTS), expected.encode(TEXTS))
    assert_close(ours.encode(TEXTS, "query"), expected.encode(TEXTS, prompt_name="query"))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_texts_and_images(tmp_path, kind):
    modules = [st_models.Transformer(str(tiny(kind, tmp_path / kind)))]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "saved"))
    if kind == "siglip":  # which was trained on texts that are padded to a fixed length
        padded = {"processing_kwargs": {"text": {"padding": "max_length", "max_length": 64}}}
        edit(tmp_path / "saved" / "sentence_bert_config.json", lambda settings: settings.update(padded))
    ours, expected = get_model(tmp_path / "saved"), theirs(tmp_path / "saved")
    texts = [text[:30] for text in TEXTS if text]
    assert_close(ours.encode(texts), expected.encode(texts))
    images = [*pictures(), pictures()[0]]
    np.testing.assert_allclose(ours.encode(images), expected.encode(images), atol=1e-5)
    mixed = ours.encode([images[0], texts[0], images[1], texts[1], texts[0]])
    np.testing.assert_allclose(mixed[[0, 2]], ours.encode(images[:2]), atol=1e-6)
    np.testing.assert_allclose(mixed[[1, 3, 4]], ours.encode([texts[0], texts[1], texts[0]]), atol=1e-6)


def test_images_as_paths_bytes_and_arrays(tmp_path):
    modules = [st_models.Transformer(str(tiny("vit", tmp_path / "vit"))), st_models.Pooling(32, pooling_mode="mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "saved"))
    image = pictures()[0]
    image.save(tmp_path / "image.png")
    path = tmp_path / "image.png"
    model = get_model(tmp_path / "saved")
    assert model.kind == "image"
    found = model.encode([image, path, str(path), path.read_bytes(), np.asarray(image)])
    expected = theirs(tmp_path / "saved").encode([image] * 5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_cross_encoders(tmp_path, activation):
    folder = tiny("bert", tmp_path / "bert")
    module = getattr(torch.nn, activation)()
    CrossEncoder(str(folder), num_labels=1, max_length=30, activation_fn=module, device="cpu").save(
        str(tmp_path / "saved")
    )
    ours, expected = get_model(tmp_path / "saved"), CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert ours.kind == "pairs"
    pairs = [(a, b) for a in TEXTS for b in TEXTS[:4] if a or b]  # this tokenizer adds no special tokens to pairs
    assert_close(ours.score(pairs), expected.predict(pairs))
    ranked = [(hit["corpus_id"], pytest.approx(hit["score"], abs=1e-5)) for hit in expected.rank("red cat", TEXTS[1:5])]
    assert ours.rerank("red cat", TEXTS[1:5]) == ranked
    assert ours.encode(pairs).shape == (len(pairs), 1)


@pytest.mark.parametrize("with_modules", [True, False])
def test_adapters_are_merged(tmp_path, with_modules):
    peft = pytest.importorskip("peft")
    base = tiny("bert", tmp_path / "base")
    folder = tmp_path / "adapter"
    model = theirs(base)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], task_type="FEATURE_EXTRACTION")
    if with_modules:
        model.add_adapter(config)
    else:
        model[0].model = peft.get_peft_model(model[0].model, config)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    expected = _cut(model, 30).encode(TEXTS)
    if with_modules:
        model.save(str(folder))
    else:
        model[0].model.save_pretrained(folder)
    assert np.abs(expected - _cut(theirs(base), 30).encode(TEXTS)).max() > 1e-2
    ours = get_model(folder, max_length=30)
    assert_close(ours.encode(TEXTS), expected)
    assert_close(get_model(folder, max_length=30).encode(TEXTS), expected)


def test_an_adapter_whose_base_is_missing_says_so(tmp_path):
    folder = tmp_path / "adapter"
    write_json(tmp_path / "adapter" / "x.json", {})
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "gone"), "peft_type": "LORA"})
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(Exception, match="gone"):
        get_model(folder)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_quantized_vectors(tiny_model, tmp_path, precision):
    folder = build(tiny_model, tmp_path / "model", NORMALIZE)
    texts = [f"red cat {i}" for i in range(120)]
    expected = theirs(folder).encode(texts, precision=precision)
    found = get_model(folder).encode(texts, precision=precision)
    assert (found.dtype, found.shape) == (np.int8, expected.shape)
    # Vectors that differ by 1e-7 may be on two sides of a step.
    steps = np.abs(found.astype(int) - expected.astype(int))
    assert steps.max() <= 1 if precision == "int8" else (steps == 0).all()
    assert (steps > 0).mean() < 0.01


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_and_search(tiny_model, tmp_path, function):
    folder = build(tiny_model, tmp_path / "model", model={"similarity_fn_name": function})
    ours, expected = get_model(folder), theirs(folder)
    queries, corpus = ours.encode(TEXTS[:3]), ours.encode(TEXTS[2:])
    similarities = expected.similarity(queries, corpus).numpy()
    np.testing.assert_allclose(ours.similarity(queries, corpus), similarities, atol=1e-4)
    hits = ours.search(TEXTS[:3], TEXTS[2:], k=3)
    np.testing.assert_allclose(hits.scores, -np.sort(-similarities, axis=1)[:, :3], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(similarities, hits.indices, 1), hits.scores, atol=1e-4)


def test_minilm(minilm):
    texts = [
        "How do I reset my password?",
        "",
        "a" * 5000,
        "Ünïcode 漢字 🎉",
        "How do I reset my password?",
        "word " * 700,
    ]
    assert_close(get_model("sentence-transformers/all-MiniLM-L6-v2").encode(texts), theirs(minilm).encode(texts))
