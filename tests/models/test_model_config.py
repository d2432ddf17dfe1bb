"""How many tokens a model can read: the rule, which only reads files, against the real model."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from finetune.models.model_config import max_tokens

ROWS = 20
_SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "intermediate_size", "ffn_dim"), 16),
    **dict.fromkeys(("hidden_dim", "d_ff", "n_inner", "entity_emb_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), ROWS),
    **{"vocab_size": 50, "entity_vocab_size": 5, "attention_window": 4, "rotary_dim": 8, "num_hash_buckets": 64},
    **{"languages": ["en_XX"], "default_language": "en_XX", "max_2d_position_embeddings": 8, "head_dim": 8},
}
# Positions start after that of the padding token, which is always 1 in MPNet.
FROM_PADDING = [
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "xmod", "luke"),
    *("ibert", "esm", "longformer", "markuplm"),
]
FROM_ZERO = [
    *("bert", "albert", "distilbert", "electra", "deberta", "deberta-v2", "mobilebert", "rembert", "convbert", "fnet"),
    *("gpt2", "gptj", "ctrl", "mpt", "openai-gpt", "xlm", "flaubert", "roformer", "canine"),
    *("opt", "biogpt", "nystromformer", "yoso", "clip_text_model"),
]
ENDLESS = ["t5", "modernbert", "nomic_bert", "jina_embeddings_v3", "qwen3", "llama", "bloom", "gpt_neox"]


@pytest.mark.parametrize(
    "name", ["**", "*", "../*/modeling", "../../../x", "[", "", "a/b", ["bert"], None, 5, "x" * 300]
)
def test_an_invalid_architecture_name_has_no_source_text(name):
    assert max_tokens({"model_type": name, "max_position_embeddings": 20}) is None


@pytest.mark.parametrize("row", ["x", "3", True, 1.5, None, [1]])
def test_a_padding_id_that_is_not_an_integer_counts_as_zero(row):
    roberta = {"model_type": "roberta", "max_position_embeddings": 20}
    assert max_tokens(roberta | {"pad_token_id": 1}) == 18
    assert max_tokens(roberta | {"pad_token_id": row}) == 19


@pytest.mark.parametrize("limit", [True, "20", 20.0, [20]])
def test_a_limit_that_is_not_an_integer_is_ignored(limit):
    assert max_tokens({"model_type": "bert", "max_position_embeddings": limit}) is None


def test_a_text_config_that_is_not_an_object_is_ignored():
    assert max_tokens({"model_type": "bert", "max_position_embeddings": 20, "text_config": "x"}) == 20


def made(kind, folder, pad=1, **more):
    """Save a tiny model of a kind; return it, its config as it is read from the file, and the folder."""
    fresh = transformers.CONFIG_MAPPING[kind]()
    sizes = {key: value for key, value in _SIZES.items() if hasattr(fresh, key)}
    config = type(fresh)(**sizes | {"pad_token_id": pad, "bos_token_id": 0, "eos_token_id": 2} | more)
    auto = transformers.AutoModelForTextEncoding if kind == "t5" else transformers.AutoModel
    model = auto.from_config(config).eval()
    model.save_pretrained(folder)
    return model, json.loads((folder / "config.json").read_text()), folder


def runs(model, length):
    """Return whether the model can read a text of this many tokens."""
    ids = torch.full((1, length), 9)
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def assert_is_the_limit(model, limit):
    assert runs(model, limit)
    assert not runs(model, limit + 1)


@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("kind", FROM_PADDING)
def test_positions_from_the_padding_token_on(tmp_path, kind, pad):
    model, config, folder = made(kind, tmp_path, pad)
    assert max_tokens(config, folder) == max_tokens(config) == ROWS - pad - 1
    assert_is_the_limit(model, ROWS - pad - 1)


@pytest.mark.parametrize("pad", [1, 4])
def test_mpnet_has_a_padding_row_of_its_own(tmp_path, pad):
    model, config, folder = made("mpnet", tmp_path, pad)
    assert max_tokens(config, folder) == max_tokens(config) == ROWS - 2
    assert_is_the_limit(model, ROWS - 2)


@pytest.mark.parametrize("kind", FROM_ZERO)
def test_positions_from_the_first_row_on(tmp_path, kind):
    model, config, folder = made(kind, tmp_path)
    assert max_tokens(config, folder) == ROWS
    assert_is_the_limit(model, ROWS)


@pytest.mark.parametrize("kind", ENDLESS)
def test_positions_without_a_table_have_no_limit(tmp_path, kind):
    model, config, folder = made(kind, tmp_path)
    assert max_tokens(config, folder) is max_tokens(config) is None
    assert runs(model, 3 * ROWS)


@pytest.mark.parametrize(
    ("kind", "more"), [("esm", {"position_embedding_type": "rotary"}), ("deberta-v2", {"position_biased_input": False})]
)
def test_an_architecture_whose_table_is_optional(tmp_path, kind, more):
    model, config, folder = made(kind, tmp_path, **more)
    assert max_tokens(config, folder) is None
    assert runs(model, 3 * ROWS)


def test_published_configs_of_bertweet_and_t5():
    assert max_tokens({"model_type": "roberta", "max_position_embeddings": 130, "pad_token_id": 1}) == 128
    assert max_tokens({"model_type": "t5", "n_positions": 512, "relative_attention_num_buckets": 32}) is None


def test_the_text_tower_sets_the_limit():
    assert max_tokens({"model_type": "clip", "text_config": {"max_position_embeddings": 77}}) == 77


def test_an_unknown_architecture_has_no_limit():
    assert max_tokens({"model_type": "unheard-of", "max_position_embeddings": 77}) is None
