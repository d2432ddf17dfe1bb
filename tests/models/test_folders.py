"""Folders in all the ways that sentence-transformers writes and reads them; sentence-transformers itself is the oracle.

Each is either embedded as sentence-transformers does, before and after it is saved again, or refused by the name of
what is not supported.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from finetune.errors import ModelError
from finetune.models.cross_encoder import CrossEncoder
from finetune.models.image import ImageEncoder
from finetune.models.st_format.json_files import write_json
from finetune.models.st_format.modules import TYPES
from finetune.models.static import StaticEncoder
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder
from tests.models.test_encoders import embed_images, embed_texts, pictures
from tests.models.tiny import TEXTS as TINY_TEXTS
from tests.models.tiny import tiny

OLD, DENSE = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"
BASE = "sentence_transformers.base.modules"
# The longest is truncated; upper case is unknown to a tokenizer that does not lowercase.
TEXTS = ["red cat", "RED Cat, Small DOG!", "small old dog and a new house", "blue " * 40, "x"]
MEAN = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


def build(base, folder, *after, pooling=MEAN, model=None, transformer=None, first=f"{OLD}.Transformer", where=""):
    """Write a sentence-transformers folder around the tiny BERT: modules `after` the pooling are (kind, config)."""
    shutil.copytree(base, folder / where)
    modules = [{"type": first, "path": where}]
    if pooling is not None:
        modules.append({"type": f"{OLD}.Pooling", "path": "1_Pooling"})
        write_json(folder / "1_Pooling" / "config.json", pooling)
    for kind, config in after:
        place = folder / f"{len(modules)}_{kind.rpartition('.')[2]}"
        modules.append({"type": kind if "." in kind else f"{OLD}.{kind}", "path": place.name})
        write_json(place / "config.json", config)
        if weights := _weights(kind, config):
            save_file(weights, place / "model.safetensors")
    listed = [{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)]
    write_json(folder / "modules.json", listed)
    write_json(folder / "config_sentence_transformers.json", model or {})
    settings = transformer if transformer is not None else {"max_seq_length": 24, "do_lower_case": False}
    write_json(folder / where / "sentence_bert_config.json", settings)
    return folder


def _weights(kind, config):
    random = torch.Generator().manual_seed(len(config))
    if kind == "LayerNorm":
        return {f"norm.{name}": torch.rand(config["dimension"], generator=random) for name in ("weight", "bias")}
    if "in_features" not in config:
        return {}
    shape = (int(config["out_features"]), config["in_features"])
    weights = {"linear.weight": torch.randn(shape, generator=random)}
    if config.get("bias", True):
        weights["linear.bias"] = torch.randn(shape[0], generator=random)
    if config.get("use_residual") and shape[0] != shape[1]:
        weights["residual.weight"] = torch.randn(shape, generator=random)
    return weights


@pytest.fixture(scope="module")
def cased(tiny_model, tmp_path_factory):
    """The tiny BERT with a tokenizer that knows lower case only and does not lower texts.

    Its class makes the normalizer again from its own settings, whatever tokenizer.json says.
    """
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("cased") / "model")
    edit(folder / "tokenizer.json", lambda made: made["normalizer"].update(lowercase=False))
    own = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "mask_token": "[UNK]"}
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(own))
    return folder


def edit(file, change):
    """Change the content of a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def dense(inputs, outputs, activation="torch.nn.modules.activation.Tanh", **more):
    return ("Dense", {"in_features": inputs, "out_features": outputs, "activation_function": activation, **more})


def theirs(folder, length=24):
    """Embed the texts one by one with sentence-transformers: some of the tested settings do not cover padding."""
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = length
    return model.encode(TEXTS), model


def assert_alike(folder, saved, **settings):
    """Assert that both libraries return the same embeddings, for this folder and for the one saved from it."""
    encoder = TextEncoder(str(folder), **settings)
    expected, _ = theirs(folder)
    if encoder.normalize:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embed_texts(encoder, TEXTS, 24), expected, atol=1e-5)
    assert encoder.width == expected.shape[1]
    saved.mkdir()
    encoder.save(saved, 24, {})
    np.testing.assert_allclose(embed_texts(TextEncoder(str(saved)), TEXTS, 24), expected, atol=1e-5)
    found, model = theirs(saved)
    if encoder.truncate and encoder.normalize:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)  # it is truncated after its last normalization
    np.testing.assert_allclose(found, expected, atol=1e-5)
    return encoder, model


FLAGS = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
POOLINGS = {
    **{flag: {"word_embedding_dimension": 32, f"pooling_mode_{flag}": True} for flag in FLAGS},
    "no flag": {"word_embedding_dimension": 32, **{f"pooling_mode_{flag}": False for flag in FLAGS}},
    "all flags": {"word_embedding_dimension": 32, **{f"pooling_mode_{flag}": True for flag in FLAGS}},
    "name": {"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True},
    "names": {"embedding_dimension": 32, "pooling_mode": ["weightedmean", "cls"], "include_prompt": True},
    "name and flags": {"embedding_dimension": 32, "pooling_mode": "max", "pooling_mode_cls_token": True},
}


@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS.keys())
def test_every_pooling(cased, tmp_path, pooling):
    assert_alike(build(cased, tmp_path / "model", pooling=pooling), tmp_path / "saved")


WIDER = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
LAYERS = {
    "dense": [dense(32, 20)],
    "no bias": [dense(32, 20, "torch.nn.modules.linear.Identity", bias=False)],
    "default activation": [("Dense", {"in_features": 32, "out_features": 20})],
    "activation": [dense(32, 20, "torch.nn.modules.activation.Softsign")],
    "short activation": [dense(32, 20, "torch.nn.GELU")],
    "names": [dense(32, 20, module_input_name="sentence_embedding", module_output_name=None)],
    "residual": [dense(32, 32, use_residual=True)],
    "projected residual": [dense(32, 20, use_residual=True)],
    "layer norm": [("LayerNorm", {"dimension": 32}), dense(32, 8)],
    "dropout": [("Dropout", {"dropout": 0.3}), dense(32, 8)],
    "normalize": [("Normalize", {})],
    "normalize named": [("Normalize", {"module_input_name": "sentence_embedding"})],
    "normalize first": [("Normalize", {}), dense(32, 20), dense(20, 12)],
    "normalize before dropout": [dense(32, 8), ("Normalize", {}), ("Dropout", {"dropout": 0.1})],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_every_layer_after_the_pooling(cased, tmp_path, layers):
    assert_alike(build(cased, tmp_path / "model", *layers), tmp_path / "saved")


def test_a_dense_layer_after_two_poolings(cased, tmp_path):
    encoder, _ = assert_alike(build(cased, tmp_path / "model", dense(64, 20), pooling=WIDER), tmp_path / "saved")
    assert encoder.pooling.mode == "cls+mean"


def test_dropout_works_in_training_only(cased, tmp_path):
    encoder = TextEncoder(str(build(cased, tmp_path / "model", ("Dropout", {"dropout": 0.5}))), dropout=0.0)
    ids, lengths = torch.arange(4, 12), np.array([8])
    encoder.train()
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(encoder(ids, lengths), encoder(ids, lengths))


MODELS = {
    "cosine": {"similarity_fn_name": "cosine", "model_type": "SentenceTransformer"},
    "dot": {"similarity_fn_name": "dot"},
    "nothing": {"similarity_fn_name": None, "default_prompt_name": None, "prompts": {"query": "", "document": ""}},
    "cut": {"truncate_dim": 12},
    "cut to more": {"truncate_dim": 64},
    "cut dot": {"truncate_dim": 12, "similarity_fn_name": "dot"},
    "versions": {"__version__": {"sentence_transformers": "2.0.0"}, "requirements": {"torch": ">=2"}},
}


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS.keys())
def test_every_setting_of_the_model(cased, tmp_path, settings):
    _, model = assert_alike(build(cased, tmp_path / "model", model=settings), tmp_path / "saved")
    assert model.similarity_fn_name == (settings.get("similarity_fn_name") or "cosine")
    assert model.truncate_dim == settings.get("truncate_dim")
    kept = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert kept.get("requirements") == settings.get("requirements")


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_the_similarity_of_unit_vectors_is_kept(cased, tmp_path, similarity):
    folder = build(cased, tmp_path / "model", ("Normalize", {}), model={"similarity_fn_name": similarity})
    _, model = assert_alike(folder, tmp_path / "saved")
    assert model.similarity_fn_name == similarity


TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
TRANSFORMERS = {
    "lower": {"max_seq_length": 24, "do_lower_case": True},
    "of version 6": {
        "transformer_task": "feature-extraction",
        "modality_config": TEXT_ONLY,
        "module_output_name": "token_embeddings",
        "unpad_inputs": False,
    },
    "arguments": {
        "model_args": {"attn_implementation": "eager", "torch_dtype": "float32"},
        "tokenizer_args": {"model_max_length": 24},
        "config_args": {},
    },
    "nothing": {},
}


@pytest.mark.parametrize("settings", TRANSFORMERS.values(), ids=TRANSFORMERS.keys())
def test_every_setting_of_the_transformer(cased, tmp_path, settings):
    assert_alike(build(cased, tmp_path / "model", transformer=settings), tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "sentence_bert_config.json").read_text())
    assert kept["do_lower_case"] is bool(settings.get("do_lower_case"))
    assert kept.get("unpad_inputs") == settings.get("unpad_inputs")


def test_lower_case_changes_embeddings_of_upper_case(cased, tmp_path):
    lower = TextEncoder(str(build(cased, tmp_path / "lower", transformer={"do_lower_case": True})))
    as_it_is = TextEncoder(str(build(cased, tmp_path / "cased")))
    np.testing.assert_array_equal(*embed_texts(lower, ["RED Cat", "red cat"]))
    assert np.abs(np.subtract(*embed_texts(as_it_is, ["RED Cat", "red cat"]))).max() > 1e-3


def test_a_cross_encoder_lowercases_texts_too(cased, tmp_path):
    from sentence_transformers import CrossEncoder as Theirs

    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    lower = {"do_lower_case": True, "transformer_task": "sequence-classification"}
    folder = build(cased, tmp_path / "model", pooling=None, transformer=lower, model=settings)
    ours = CrossEncoder(str(folder))
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved", 24, {})
    theirs = Theirs(str(tmp_path / "saved"), device="cpu")
    pairs = [("RED Cat", "small DOG"), ("red cat", "small dog")]
    first, second = theirs.predict(pairs)
    assert first == pytest.approx(second, abs=1e-6)
    assert isinstance(theirs.activation_fn, torch.nn.Identity)
    texts = [CrossEncoder(str(tmp_path / "saved")).tokenizer(*pair)["input_ids"] for pair in pairs]
    assert texts == [ours.tokenizer(*pairs[1])["input_ids"]] * 2


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_older_names_of_the_settings_file(cased, tmp_path, kind):
    folder = build(cased, tmp_path / "model", transformer={})
    write_json(folder / f"sentence_{kind}_config.json", {"max_seq_length": 24, "do_lower_case": True})
    assert_alike(folder, tmp_path / "saved")
    np.testing.assert_array_equal(*embed_texts(TextEncoder(str(folder)), ["RED Cat", "red cat"]))


def test_a_transformer_in_a_folder_of_its_own(cased, tmp_path):
    assert_alike(
        build(cased, tmp_path / "model", where="0_Transformer", transformer={"do_lower_case": True}), tmp_path / "saved"
    )


def test_every_type_is_one_that_sentence_transformers_reads():
    from sentence_transformers.util.misc import import_from_string

    # Release 6 has moved Normalize, and still reads its old type.
    assert {spelling: import_from_string(spelling).__name__ for spelling in TYPES} == TYPES


@pytest.mark.parametrize("package", [OLD, DENSE, f"{BASE}.transformer", BASE, f"{OLD}.Transformer"])
def test_the_old_and_the_new_types_of_modules(cased, tmp_path, package):
    assert_alike(build(cased, tmp_path / "model", first=f"{package}.Transformer"), tmp_path / "saved")


def test_modules_are_in_the_order_of_the_list_not_of_idx(cased, tmp_path):
    folder = build(cased, tmp_path / "model", dense(32, 20), dense(20, 32))
    edit(folder / "modules.json", lambda modules: [module.update(idx=9 - i) for i, module in enumerate(modules)])
    assert_alike(folder, tmp_path / "saved")


def test_pickled_dense_layers_when_they_are_trusted(cased, tmp_path):
    folder = build(cased, tmp_path / "model", dense(32, 20))
    place = folder / "2_Dense"
    torch.save(_weights("Dense", json.loads((place / "config.json").read_text())), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"2_Dense.*pickles are not read") as caught:
        TextEncoder(str(folder))
    assert "allow_pickle=true" in caught.value.advice
    assert_alike(folder, tmp_path / "saved", allow_pickle=True)


def module(kind, config=None):
    return {"after": [(kind, config or {})]}


OTHERS = [
    *("BoW", "CNN", "LSTM", "WeightedLayerPooling", "WordEmbeddings", "WordWeights", "Router", "Asym"),
    *("StaticEmbedding", "CLIPModel", "Transformer", "Pooling"),
]
REFUSED = {
    **{kind: (module(kind), kind) for kind in OTHERS},
    "sparse": (module("sentence_transformers.sparse_encoder.models.SpladePooling"), "SpladePooling"),
    "sparse first": ({"first": "sentence_transformers.sparse_encoder.models.MLMTransformer"}, "MLMTransformer"),
    "several vectors": (module("sentence_transformers.multi_vector_encoder.modules.TokenPooling"), "TokenPooling"),
    "another library": (module("pylate.models.Dense.Dense"), "pylate.models.Dense.Dense"),
    "own code": (module("my_pooling.Pooling"), "my_pooling.Pooling"),
    "own code first": ({"first": "custom_st.Transformer"}, "custom_st.Transformer"),
    "like a built-in one": (module("sentence_transformers_extra.models.Dense"), "sentence_transformers_extra"),
    "table first": ({"first": f"{OLD}.StaticEmbedding"}, "StaticEmbedding"),
    "images first": ({"first": f"{OLD}.CLIPModel"}, "CLIPModel"),
    "no pooling": ({"pooling": None}, "Pooling"),
    "prompt left out": ({"pooling": {**MEAN, "include_prompt": False}}, "include_prompt"),
    "pooling mode": ({"pooling": {"embedding_dimension": 32, "pooling_mode": "median"}}, "median"),
    "pooling flag": ({"pooling": {**MEAN, "pooling_mode_median": True}}, "pooling_mode_median"),
    "dense on tokens": ({"after": [dense(32, 20, module_input_name="token_embeddings")]}, "module_input_name"),
    "dense elsewhere": ({"after": [dense(32, 20, module_output_name="scores")]}, "module_output_name"),
    "dense key": ({"after": [dense(32, 20, init_scale=2)]}, "init_scale"),
    "activation": ({"after": [dense(32, 20, "my.activations.Tanh")]}, "my.activations.Tanh"),
    "activation with weights": ({"after": [dense(32, 20, "torch.nn.modules.activation.PReLU")]}, "PReLU"),
    "normalize tokens": (module("Normalize", {"module_input_name": "token_embeddings"}), "module_input_name"),
    "width": ({"after": [dense(16, 20)]}, "takes 16 dimensions"),
    "layer norm width": (module("LayerNorm", {"dimension": 16}), "takes 16 dimensions"),
    "model type": ({"model": {"model_type": "SparseEncoder"}}, "SparseEncoder"),
    "cross-encoder": ({"model": {"model_type": "CrossEncoder"}}, "CrossEncoder"),
    "similarity": ({"model": {"similarity_fn_name": "MaxSim"}}, "MaxSim"),
    "manhattan": ({"model": {"similarity_fn_name": "manhattan"}}, "manhattan"),
    "euclidean": ({"model": {"similarity_fn_name": "euclidean"}}, "euclidean"),
    "default prompt": ({"model": {"default_prompt_name": "web", "prompts": {}}}, "default_prompt_name"),
    "requirement": ({"model": {"requirements": {"torch": "<1"}}}, "torch<1"),
    "its library": ({"model": {"requirements": {"sentence_transformers": ">=99"}}}, "sentence_transformers>=99"),
    "its Python": ({"model": {"requirements": {"python": {"specifier": "<3"}}}}, "python<3"),
    "no width": ({"after": [dense(32, 0)]}, "out_features"),
    "no dimension": (module("LayerNorm", {"dimension": 0}), "dimension"),
    "width of true": ({"after": [dense(32, True)]}, "out_features = true"),
    "bias of text": ({"after": [dense(32, 20, bias="false")]}, 'bias = "false"'),
    "residual of text": ({"after": [dense(32, 20, use_residual="no")]}, 'use_residual = "no"'),
    **{f"dropout {rate}": (module("Dropout", {"dropout": rate}), "dropout = ") for rate in ("x", 7, -0.1, True, None)},
    **{
        f"length {length}": ({"transformer": {"max_seq_length": length}}, "max_seq_length = ")
        for length in ("512", [512], 512.0, True, 0, -1)
    },
    "length of a tokenizer": (
        {"transformer": {"tokenizer_args": {"model_max_length": "24"}}},
        'tokenizer_args.model_max_length = "24"',
    ),
    "lower case of text": ({"transformer": {"do_lower_case": "false"}}, 'do_lower_case = "false"'),
    "lower case of a number": ({"transformer": {"do_lower_case": 0}}, "do_lower_case = 0"),
    "unpadding of text": ({"transformer": {"unpad_inputs": "no"}}, 'unpad_inputs = "no"'),
    **{
        f"cut to {width}": ({"model": {"truncate_dim": width}}, "truncate_dim = ")
        for width in (True, False, "8", 8.0, 0)
    },
    "pooling flag of text": ({"pooling": {**MEAN, "pooling_mode_cls_token": "false"}}, "pooling_mode_cls_token"),
    **{f"prompt {text}": ({"model": {"prompts": {"query": text}}}, "prompts.query = ") for text in (5, False, ["q: "])},
    "unknown model key": ({"model": {"query_prefix": "[Q] "}}, "query_prefix"),
    "task": ({"transformer": {"transformer_task": "fill-mask"}}, "fill-mask"),
    "unknown transformer key": ({"transformer": {"window": 3}}, "window"),
    "tokenizer elsewhere": ({"transformer": {"tokenizer_name_or_path": "bert-base-cased"}}, "tokenizer_name_or_path"),
    "query length": ({"transformer": {"query_length": 32}}, "query_length"),
    "processing": (
        {"transformer": {"processing_kwargs": {"text": {"add_special_tokens": False}}}},
        "processing_kwargs",
    ),
    "model argument": ({"transformer": {"model_args": {"num_hidden_layers": 1}}}, "model_args.num_hidden_layers"),
    "tokenizer argument": ({"transformer": {"tokenizer_args": {"do_lower_case": True}}}, "do_lower_case"),
    "chat": (
        {"transformer": {"modality_config": {"message": {**TEXT_ONLY["text"], "format": "flat"}}}},
        "message",
    ),
    "pooler": (
        {
            "transformer": {
                "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
                "module_output_name": "sentence_embedding",
            }
        },
        "pooler_output",
    ),
    "another layer": (
        {
            "transformer": {
                "modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", "1"]}},
                "module_output_name": "token_embeddings",
            }
        },
        "hidden_states",
    ),
}


@pytest.mark.parametrize(("made", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_supported_is_named(cased, tmp_path, made, named):
    made = dict(made)
    with pytest.raises(ModelError) as caught:
        TextEncoder(str(build(cased, tmp_path / "model", *made.pop("after", ()), **made)))
    assert named in caught.value.what
    assert caught.value.advice


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda modules: modules[0].update(kwargs=["task"]), "kwargs"),
        (lambda modules: modules[0].update(args={}), "args"),
        (lambda modules: modules[1].update(name="0"), "name"),
        (lambda modules: modules[1].update(path="../elsewhere"), "elsewhere"),
        (lambda modules: modules[1].update(path="2_Pooling"), "2_Pooling"),
        (lambda modules: modules.clear(), "first module"),
    ],
)
def test_unsupported_entries_of_modules_json_are_named(cased, tmp_path, change, named):
    folder = build(cased, tmp_path / "model")
    edit(folder / "modules.json", change)
    with pytest.raises(ModelError, match=named):
        TextEncoder(str(folder))


def test_an_unsupported_distance_can_be_replaced_by_the_cosine(cased, tmp_path):
    folder = build(cased, tmp_path / "model", model={"similarity_fn_name": "manhattan"})
    encoder = TextEncoder(str(folder), normalize=True)
    (tmp_path / "saved").mkdir()
    encoder.save(tmp_path / "saved", 24, {})
    assert SentenceTransformer(str(tmp_path / "saved"), device="cpu").similarity_fn_name == "cosine"


def test_no_head_after_truncated_embeddings(cased, tmp_path):
    folder = build(cased, tmp_path / "model", model={"truncate_dim": 12})
    with pytest.raises(ModelError, match="truncate_dim"):
        TextEncoder(str(folder), output_width=8)


QUERY, BOTH = {"query": "q: ", "document": ""}, {"query": "q: ", "document": "d: "}
OWN = {"query": "q: ", "passage": "d: ", "task": "t: "}


@pytest.mark.parametrize(
    ("own", "default", "trained", "query", "document", "plain"),
    [
        (OWN, None, {}, "", "", ""),
        (OWN, "query", {}, "", "", ""),
        (OWN, "task", {}, "", "", ""),
        (OWN, "task", BOTH, "q: ", "d: ", ""),
        (OWN, "query", BOTH, "q: ", "d: ", "q: "),
        (OWN, "query", QUERY, "q: ", "", "q: "),
        (OWN, "task", {"query": "t: ", "document": "t: "}, "t: ", "t: ", "t: "),
        (OWN, None, {"query": "new: ", "document": ""}, "new: ", "", ""),
        ({}, None, {}, "", "", ""),
        ({}, None, BOTH, "q: ", "d: ", ""),
    ],
)
def test_saved_prompts_are_those_of_the_training(cased, tmp_path, own, default, trained, query, document, plain):
    settings = {"prompts": own, "default_prompt_name": default}
    encoder = TextEncoder(str(build(cased, tmp_path / "model", ("Normalize", {}), model=settings)))
    (tmp_path / "saved").mkdir()
    encoder.save(tmp_path / "saved", 24, trained)
    model = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    for embed, front in ((model.encode_query, query), (model.encode_document, document), (model.encode, plain)):
        expected = embed_texts(encoder, [front + text for text in TEXTS], 24)
        np.testing.assert_allclose(embed(TEXTS), expected, atol=1e-5)
    if "task" in own:
        assert model.prompts["task"] == "t: "  # applied only on request


def without_padding(folder):
    edit(folder / "tokenizer_config.json", lambda settings: settings.pop("pad_token"))
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(eos_token="[SEP]"))


def cut_and_filled(folder):
    def change(made):
        made["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        filled = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
        made["padding"] = {**filled, "pad_type_id": 0, "pad_token": "[PAD]"}

    edit(folder / "tokenizer.json", change)


def ended(folder):
    def change(made):
        made["post_processor"]["single"].append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})

    edit(folder / "tokenizer.json", change)


TOKENIZERS = {
    "no padding token": without_padding,
    "cut and filled": cut_and_filled,
    "one more mark at the end": ended,
    "no length": lambda folder: edit(
        folder / "tokenizer_config.json", lambda settings: settings.pop("model_max_length", None)
    ),
    "cut on the left": lambda folder: edit(
        folder / "tokenizer_config.json", lambda settings: settings.update(truncation_side="left")
    ),
    "filled on the left": lambda folder: edit(
        folder / "tokenizer_config.json", lambda settings: settings.update(padding_side="left")
    ),
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_every_tokenizer(tiny_model, tmp_path, change):
    folder = build(tiny_model, tmp_path / "model", transformer={"max_seq_length": 24, "do_lower_case": True})
    change(folder)
    encoder = TextEncoder(str(folder))
    model = SentenceTransformer(str(folder), device="cpu")
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = "[SEP]"
    expected = np.stack([model.encode(text, normalize_embeddings=True) for text in TEXTS])
    np.testing.assert_allclose(embed_texts(encoder, TEXTS, 24), expected, atol=1e-5)
    (tmp_path / "saved").mkdir()
    encoder.save(tmp_path / "saved", 24, {})
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(np.stack([again.encode(text) for text in TEXTS]), expected, atol=1e-5)
    again.encode(TEXTS)  # padded: a tokenizer without a padding token would fail


def test_a_saved_tokenizer_has_the_names_that_transformers_4_reads(tiny_model, tmp_path):
    folder = build(tiny_model, tmp_path / "model")
    of_transformers_5 = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["dog"]}
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(of_transformers_5))
    encoder = TextEncoder(str(folder))
    (tmp_path / "saved").mkdir()
    encoder.save(tmp_path / "saved", 24, {})
    settings = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["dog"]
    assert "extra_special_tokens" not in settings
    again = TextEncoder(str(tmp_path / "saved")).tokenizer
    assert type(again) is type(encoder.tokenizer)
    assert again.all_special_tokens == encoder.tokenizer.all_special_tokens
    assert "dog" in again.all_special_tokens
    assert again(TEXTS)["input_ids"] == encoder.tokenizer(TEXTS)["input_ids"]


def test_a_token_id_beyond_the_table_is_refused(cased, tmp_path):
    folder = build(cased, tmp_path / "model")

    def change(made):
        made["model"]["vocab"]["wind"] = 5000

    edit(folder / "tokenizer.json", change)
    with pytest.raises(ModelError, match="ids up to 5000"):
        TextEncoder(str(folder))


QUANTIZED = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "4 bits"),
    "old bitsandbytes": ({"load_in_8bit": True}, "bitsandbytes, 8 bits"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq, 4 bits"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "int-quantized"),
    "fp8": ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
}


@pytest.mark.parametrize(("settings", "named"), QUANTIZED.values(), ids=QUANTIZED.keys())
def test_quantized_weights_are_named(cased, tmp_path, settings, named):
    folder = build(cased, tmp_path / "model")
    edit(folder / "config.json", lambda config: config.update(quantization_config=settings))
    (folder / "README.md").write_text("---\nbase_model: user/the-original\n---\n")
    with pytest.raises(ModelError, match=named) as caught:
        TextEncoder(str(folder))
    assert "user/the-original" in caught.value.advice


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_weights_are_found_without_a_config(cased, tmp_path, dtype):
    folder = build(cased, tmp_path / "model")
    save_file({"encoder.layer.0.output.dense.weight": torch.zeros(32, 64, dtype=dtype)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="quantized"):
        TextEncoder(str(folder))


def test_an_adapter_is_not_a_model(cased, tmp_path):
    folder: Path = build(cased, tmp_path / "model")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "user/base", "peft_type": "LORA"})
    with pytest.raises(ModelError, match=r"adapter.*user/base"):
        TextEncoder(str(folder))


def table(base, folder, *, settings=None, after=(), **weights):
    """Write a folder of sentence-transformers around a table of token embeddings, which `weights` has."""
    folder.mkdir()
    shutil.copy(base / "tokenizer.json", folder)
    save_file(weights, folder / "model.safetensors")
    modules = [{"type": f"{OLD}.StaticEmbedding", "path": ""}]
    for kind, config in after:
        modules.append({"type": f"{OLD}.{kind}", "path": f"{len(modules)}_{kind}"})
        write_json(folder / modules[-1]["path"] / "config.json", config)
    write_json(folder / "modules.json", [{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)])
    write_json(folder / "config_sentence_transformers.json", settings or {})
    return folder


def rows(count, width=8):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


TABLES = {
    "sentence-transformers": {"embedding.weight": rows(96)},
    "model2vec": {"embeddings": rows(96)},
    "model2vec with fewer rows": {"embeddings": rows(10), "mapping": torch.arange(96) % 10},
    "model2vec with weights": {"embeddings": rows(96), "weights": torch.linspace(0, 2, 96)},
}


@pytest.mark.parametrize("weights", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_table_of_tokens(tiny_model, tmp_path, weights, similarity):
    own = {"prompts": {"query": "red "}, "default_prompt_name": "query", "similarity_fn_name": similarity}
    folder = table(tiny_model, tmp_path / "model", settings=own, **weights)
    ours = StaticEncoder(str(folder))
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt="")
    if similarity == "cosine":
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embed_texts(ours, TEXTS, 99), expected, atol=1e-5)
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved", 6, {})
    # The saved model truncates texts as the training did, and has no prompts that the training did not use.
    cut = embed_texts(ours, TEXTS, 6)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS), cut, atol=1e-5)
    np.testing.assert_allclose(embed_texts(StaticEncoder(str(tmp_path / "saved")), TEXTS, 6), cut, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ({"after": [dense(8, 4)]}, "Dense"),
        ({"after": [("Pooling", {"embedding_dimension": 8, "pooling_mode": "mean"})]}, "Pooling"),
        ({"settings": {"truncate_dim": 4}}, "truncate_dim"),
        ({"embedding.weight": rows(50)}, "ids up to 95"),
    ],
)
def test_unsupported_modules_after_a_table(tiny_model, tmp_path, made, named):
    folder = table(tiny_model, tmp_path / "model", **{"embedding.weight": rows(96), **made})
    with pytest.raises(ModelError, match=named):
        StaticEncoder(str(folder))


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_image_models_saved_by_sentence_transformers(tmp_path, kind):
    from sentence_transformers import models

    backbone = models.Transformer(str(tiny(kind, tmp_path / kind)))
    modules = [backbone] if kind == "clip" else [backbone, models.Pooling(32, pooling_mode="mean")]
    theirs = SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="dot")
    theirs.save(str(tmp_path / "theirs"))
    ours = (TextImageEncoder if kind == "clip" else ImageEncoder)(str(tmp_path / "theirs"))
    assert ours.normalize is False
    np.testing.assert_allclose(embed_images(ours, pictures()), theirs.encode(pictures()), atol=1e-5)
    if kind == "clip":
        np.testing.assert_allclose(embed_texts(ours), theirs.encode(TINY_TEXTS), atol=1e-5)


def test_image_embeddings_are_truncated_as_their_folder_says(tmp_path):
    folder = tiny("vit", tmp_path / "vit")
    pooling = {"type": f"{OLD}.Pooling", "path": "1_Pooling", "name": "1"}
    write_json(folder / "modules.json", [{"type": f"{OLD}.Transformer", "path": "", "name": "0"}, pooling])
    write_json(folder / "1_Pooling" / "config.json", MEAN)
    write_json(folder / "config_sentence_transformers.json", {"truncate_dim": 5, "similarity_fn_name": "dot"})
    ours = ImageEncoder(str(folder))
    assert ours.width == 5
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved", 0, {})
    again = ImageEncoder(str(tmp_path / "saved"))
    np.testing.assert_allclose(embed_images(again, pictures()), embed_images(ours, pictures()), atol=1e-6)
