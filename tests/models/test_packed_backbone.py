"""Backbones of every kind give the same result for packed and padded texts; unsupported ones are unchanged."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel

from finetune.models.packed_backbone import pack_backbone
from finetune.models.packing import Packing

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SHARED = {"vocab_size": 90, "pad_token_id": 1, **SIZES}
DECODER = {"num_key_value_heads": 2, "head_dim": 8}
PACKED = {
    "Bert": {},
    "Roberta": {},
    "XLMRoberta": {},
    "Electra": {"embedding_size": 16},
    "Albert": {"embedding_size": 16},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "ModernBert": {"local_attention": 8},
    "EuroBert": {},
    "Qwen2": DECODER,
    "Qwen3": DECODER,
    "Llama": DECODER,
    "Mistral": {**DECODER, "sliding_window": 6},
    "Gemma3Text": {**DECODER, "sliding_window": 6},
}
PADDED = {"MPNet": {}, "DebertaV2": {}, "T5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64}}


def make(name, more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SHARED | more)
    return AutoModel.from_config(config).eval()


@pytest.mark.parametrize("name", PACKED)
def test_values_and_gradients_equal_padded_texts(name):
    lengths = np.array([1, 3, 3, 17, 31])  # a number of tokens to which rows of padding are added
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 90, (int(lengths.sum()),), generator=generator)
    packing = Packing(lengths, torch.device("cpu"))
    plain, ours = make(name, PACKED[name]), make(name, PACKED[name])

    run = pack_backbone(ours, pad_id=1)
    assert run is not None
    (states,) = run(ours.get_input_embeddings()(ids), packing)
    padded_ids = packing.pad(ids).masked_fill(~packing.mask(), 1)
    expected = packing.unpad(plain(input_ids=padded_ids, attention_mask=packing.mask().long()).last_hidden_state)
    direction = torch.randn(states.shape, generator=generator)
    (states * direction).sum().backward()
    (expected * direction).sum().backward()

    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    for (key, p), (_, q) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5 * float(q.grad.abs().max() + 1), msg=key)


@pytest.mark.parametrize("name", PADDED)
def test_an_unsupported_backbone_is_unchanged(name):
    model = make(name, PADDED[name])
    before = model.config._attn_implementation
    assert pack_backbone(model, pad_id=1) is None
    assert model.config._attn_implementation == before


def test_a_backbone_with_other_results_when_packed_is_unchanged(monkeypatch):
    model = make("Bert", {})
    monkeypatch.setattr(Packing, "positions", lambda self: torch.zeros(int(self.lengths.sum()), dtype=torch.long))
    assert pack_backbone(model, pad_id=1) is None
    assert model.config._attn_implementation == "sdpa"


def test_the_trial_changes_no_mode_and_draws_no_random_number():
    model = make("Bert", {}).train()
    state = torch.get_rng_state()
    assert pack_backbone(model, pad_id=1) is not None
    assert model.training and all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_packing_is_not_in_the_saved_config(tmp_path):
    model = make("Bert", {})
    pack_backbone(model, pad_id=1)
    model.save_pretrained(tmp_path)
    assert "finetune" not in (tmp_path / "config.json").read_text()
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"
