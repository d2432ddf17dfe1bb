"""Which parameters are trained, with which learning rate; and adapters, which only add what was trained."""

import numpy as np
import pytest
import torch
from torch import nn

from finetune.errors import ModelError
from finetune.models.text import TextEncoder
from finetune.models.tuning import LoRA, Tuning
from tests.models.test_encoders import embed_texts
from tests.models.tiny import TEXTS, tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT of two layers."""
    return str(tiny("bert", tmp_path_factory.mktemp("tuning") / "bert"))


def trained(encoder):
    """The names of the weights that are trained."""
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def step(encoder, lr=0.1):
    """Take one step of plain gradient descent towards something, in training mode without dropout."""
    rows = [encoder.tokenizer(text)["input_ids"] for text in TEXTS]
    ids, lengths = torch.tensor([i for row in rows for i in row]), np.array([len(row) for row in rows])
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr)
    encoder.train()
    for module in encoder.modules():
        if "Dropout" in type(module).__name__:
            module.eval()
    (encoder(ids, lengths)[:, :3].sum() * 10).backward()
    optimizer.step()


def test_by_pattern_and_by_layer(bert):
    encoder = TextEncoder(bert)
    everything = trained(encoder)
    Tuning(freeze=["*embeddings*", "*.layer.1.output.*"]).apply(encoder)
    assert everything - trained(encoder) == {n for n in everything if "embeddings" in n or ".layer.1.output." in n}
    encoder = TextEncoder(bert)
    Tuning(freeze_layers=1).apply(encoder)
    assert everything - trained(encoder) == {n for n in everything if "embeddings" in n or ".layer.0." in n}


def test_frozen_weights_stay(bert):
    encoder = TextEncoder(bert)
    Tuning(freeze_layers=1).apply(encoder)
    before = {name: parameter.clone() for name, parameter in encoder.named_parameters()}
    names = trained(encoder)
    step(encoder)
    changed = {name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed <= names
    assert len(changed) > len(names) / 2


def test_each_layer_learns_slower_than_the_one_above(bert):
    encoder = TextEncoder(bert, output_width=8)
    rates = {
        name: Tuning(layer_decay=0.5).lr_multipliers(encoder).get(p, 1.0) for name, p in encoder.named_parameters()
    }
    assert rates["head.0.linear.weight"] == 1
    assert rates["backbone.encoder.layer.1.output.dense.weight"] == 0.5
    assert rates["backbone.encoder.layer.0.output.dense.weight"] == 0.25
    assert rates["backbone.embeddings.word_embeddings.weight"] == 0.125
    assert not Tuning().lr_multipliers(encoder)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", ["bert", "mpnet", "qwen3", "modernbert"])
def test_adapters_start_at_zero_and_merge_to_the_same_model(tmp_path, kind, dora):
    folder = str(tiny(kind, tmp_path / kind))
    encoder, plain = TextEncoder(folder), embed_texts(TextEncoder(folder))
    tuning = LoRA(rank=4, alpha=8.0, dora=dora)
    tuning.apply(encoder)
    assert all("lora" in name for name in trained(encoder))
    np.testing.assert_allclose(embed_texts(encoder), plain, atol=1e-5)
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            nn.init.normal_(parameter, std=0.1)
    learned = embed_texts(encoder)
    assert np.abs(learned - plain).max() > 1e-3
    tuning.merge(encoder)
    np.testing.assert_allclose(embed_texts(encoder), learned, atol=1e-5)
    assert {*encoder.state_dict()} == {*TextEncoder(folder).state_dict()}
    (tmp_path / "saved").mkdir()
    encoder.save(tmp_path / "saved", 32, {})
    np.testing.assert_allclose(embed_texts(TextEncoder(str(tmp_path / "saved"))), learned, atol=1e-5)


def test_adapters_learn(bert):
    encoder = TextEncoder(bert, output_width=8)
    LoRA(rank=2, targets=["query", "value"]).apply(encoder)
    assert "head.0.linear.weight" in trained(encoder)
    before = embed_texts(encoder)
    step(encoder)
    assert np.abs(embed_texts(encoder) - before).max() > 1e-4


def test_gradient_checkpointing_gives_the_same_gradient(bert):
    found = []
    for checkpointing in (False, True):
        encoder = TextEncoder(bert, dropout=0.0)
        Tuning(gradient_checkpointing=checkpointing).apply(encoder)
        step(encoder, lr=0.0)
        found.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        (Tuning(freeze=["*embedings*"]), "matches none"),
        (Tuning(freeze=["*"]), "nothing is left"),
        (Tuning(freeze_layers=3), "more than the 2 layers"),
        (LoRA(targets=["nope"]), "nope"),
    ],
)
def test_invalid_settings_are_refused(bert, tuning, words):
    with pytest.raises(ModelError, match=words):
        tuning.apply(TextEncoder(bert))


def test_parameters_missing_in_the_checkpoint_are_trained_fully(bert, tmp_path):
    from finetune.models.cross_encoder import CrossEncoder

    encoder = CrossEncoder(bert)
    tuning = LoRA(rank=2)
    tuning.apply(encoder)
    assert {name for name in trained(encoder) if "lora" not in name} == {
        "backbone.classifier.weight",
        "backbone.classifier.bias",
    }
    tuning.merge(encoder)
    assert {*encoder.state_dict()} == {*CrossEncoder(bert).state_dict()}
