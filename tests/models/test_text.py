"""The text encoder, on the real MiniLM weights where it matters."""

import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from finetune.errors import ModelError
from finetune.models.model_config import max_tokens
from finetune.models.resolve import resolve
from finetune.models.text import TextEncoder

TEXTS = ["a cat", "the quick brown fox jumps over the lazy dog " * 8, "", "Zürich, 北京, 🎉", "word"]


def embed(encoder, texts, max_length=64):
    encoder.eval()
    rows = encoder.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    ids = torch.tensor([token for row in rows for token in row])
    with torch.no_grad():
        return encoder(ids, np.array([len(row) for row in rows])).numpy()


def test_the_default_model_comes_from_its_package_without_a_hub(minilm):
    assert resolve("sentence-transformers/all-MiniLM-L6-v2") == minilm


def test_minilm_equals_sentence_transformers(minilm):
    oracle = SentenceTransformer(str(minilm), device="cpu")
    oracle.max_seq_length = 64
    np.testing.assert_allclose(embed(TextEncoder(str(minilm)), TEXTS), oracle.encode(TEXTS), atol=1e-5)


def test_embeddings_have_unit_length_and_the_models_width(tiny_model):
    encoder = TextEncoder(str(tiny_model))
    emb = embed(encoder, TEXTS)
    assert emb.shape == (len(TEXTS), 32) == (len(TEXTS), encoder.width)
    np.testing.assert_allclose(np.linalg.norm(emb, axis=1), 1, atol=1e-5)


def test_padding_never_changes_an_embedding(tiny_model):
    encoder = TextEncoder(str(tiny_model))
    together = embed(encoder, TEXTS)
    alone = np.concatenate([embed(encoder, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_weights_are_fp32_whatever_they_were_saved_in(tiny_model, tmp_path):
    TextEncoder(str(tiny_model)).backbone.bfloat16().save_pretrained(tmp_path / "bf16")
    for file in tiny_model.glob("token*"):
        shutil.copy(file, tmp_path / "bf16")
    assert {p.dtype for p in TextEncoder(str(tmp_path / "bf16")).parameters()} == {torch.float32}


def test_random_init_needs_no_weights(tiny_model, tmp_path):
    folder = copy(tiny_model, tmp_path)
    (folder / "model.safetensors").unlink()
    first, second = (TextEncoder(str(folder), random_init=True) for _ in range(2))
    assert not torch.equal(
        first.backbone.embeddings.word_embeddings.weight, second.backbone.embeddings.word_embeddings.weight
    )


def test_dropout_is_set_in_every_layer(tiny_model):
    encoder = TextEncoder(str(tiny_model), dropout=0.3)
    rates = {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "t5"}, None),
    ],
)
def test_longest_counts_positions(config, expected):
    assert max_tokens(config) == expected


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "modules.json").write_text('[{"idx": 0}]'), "modules.json"),
        (lambda f: more_words(f), "another model"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 100), "damaged"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
        (lambda f: remote_code(f), "code of its own"),
    ],
)
def test_a_damaged_folder_is_one_sentence(tiny_model, tmp_path, harm, words):
    folder = copy(tiny_model, tmp_path)
    harm(folder)
    with pytest.raises(ModelError, match=words) as caught:
        TextEncoder(str(folder))
    assert caught.value.advice


def test_a_pickle_is_not_read(tiny_model, tmp_path):
    folder = copy(tiny_model, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles"):
        TextEncoder(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-model", "a/b/c"])
def test_a_missing_path(name):
    with pytest.raises(ModelError, match="does not exist"):
        resolve(name)


def test_a_missing_hub_model_names_three_ways_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        resolve("user/some-model")
    for way in ("local folder", "cache", "which is on this machine"):
        assert way in caught.value.advice


def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def more_words(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"new{i}": 96 + i for i in range(10)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def remote_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('this code must not run')")
