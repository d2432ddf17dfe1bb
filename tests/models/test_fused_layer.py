"""A fused layer gives the values and gradients of the original layer; what is not BERT's kind is left alone.

`test_packed.py` holds fused backbones to padded ones; here is what a single layer has to get right.
"""

import copy

import numpy as np
import pytest
import torch
import transformers
from torch.nn.utils import prune

from finetune.models import fused_layer
from finetune.models.dropout import replace_dropout
from finetune.models.fused_layer import FusedLayer, fuse_layers, separate_layers
from finetune.models.packed_backbone import pack_backbone
from finetune.models.packing import Packing
from finetune.models.shared_grad import SharedGradEmbedding

LENGTHS = np.array([2, 3, 3, 9])
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 30}


def backbone(name="Bert", **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(pad_token_id=0, **SIZES, **more)
    model = getattr(transformers, f"{name}Model")(config)
    assert pack_backbone(model, pad_id=0) is not None
    return model


def call(layer, states, lookup=None):
    """Call a layer on packed states; the last rows are padding."""
    packing = Packing(LENGTHS, torch.device("cpu"))
    return layer(
        states.unsqueeze(0), packing=packing, token_embedding=lookup or SharedGradEmbedding(torch.nn.Embedding(2, 2))
    )[0]


def states(dtype=torch.float32, rows=20):
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(3), dtype=dtype).requires_grad_()


@pytest.fixture
def doubles(monkeypatch):
    monkeypatch.setattr(fused_layer, "_DTYPES", (torch.float64,))


@pytest.mark.parametrize("name", ["Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "Ernie", "Data2VecText"])
def test_bert_layers_are_fused(name):
    model = backbone(name)
    assert sum(isinstance(module, FusedLayer) for module in model.modules()) == 1


@pytest.mark.parametrize("more", [{"hidden_act": "relu"}, {"hidden_act": "gelu_new"}])
def test_layers_with_other_activations_are_not_fused(more):
    assert not any(isinstance(module, FusedLayer) for module in backbone(**more).modules())


def test_gradients_of_inputs_and_weights_with_dropout_by_finite_differences(doubles):
    layer = backbone().double().train().encoder.layer[0]
    parameters = dict(layer.named_parameters())
    inputs = states(torch.float64)

    def computed(hidden, *weights):
        torch.manual_seed(5)  # the same elements are dropped every time
        found = torch.func.functional_call(
            layer, dict(zip(parameters, weights, strict=True)), (hidden.unsqueeze(0),),
            {
                "packing": Packing(LENGTHS, torch.device("cpu")),
                "token_embedding": SharedGradEmbedding(torch.nn.Embedding(2, 2)),
            },
        )  # fmt: skip
        return found[0, : LENGTHS.sum()]

    assert torch.autograd.gradcheck(computed, (inputs, *parameters.values()), fast_mode=True)


def test_dropout_draws_the_numbers_of_the_plain_layer():
    fused = backbone().train()
    plain = copy.deepcopy(fused)
    separate_layers(plain)
    replace_dropout(plain)
    found = []
    for model in (fused, plain):
        torch.manual_seed(9)
        found.append(call(model.encoder.layer[0], states()))
    torch.testing.assert_close(*(each[: LENGTHS.sum()] for each in found), rtol=1e-4, atol=1e-5)


def test_mixed_precision_is_as_close_as_the_plain_layers():
    fused, exact = backbone().eval(), backbone().eval()
    plain = copy.deepcopy(fused)
    separate_layers(plain)
    expected = call(exact.encoder.layer[0], states())
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (call(model.encoder.layer[0], states()) for model in (fused, plain))
    assert ours.dtype == theirs.dtype == torch.float32
    real = slice(0, int(LENGTHS.sum()))
    assert (ours - expected)[real].abs().max() < 1.5 * (theirs - expected)[real].abs().max()


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_without_gradients_a_layer_computes_the_same(precision, tolerance):
    layer, hidden = backbone().eval().encoder.layer[0], states()
    assert isinstance(layer, FusedLayer)
    unchanged = hidden.detach().clone()
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        expected = call(layer, hidden)
        with torch.inference_mode():
            found = call(layer, hidden)
    assert found.dtype == expected.dtype and torch.equal(hidden.detach(), unchanged)
    torch.testing.assert_close(found, expected.detach(), rtol=tolerance, atol=tolerance)


def test_without_gradients_dropout_still_drops_in_training():
    layer = backbone().train().encoder.layer[0]
    with torch.no_grad():
        assert not torch.equal(call(layer, states()), call(layer, states()))


def test_frozen_weights_get_no_gradient_and_the_others_do():
    layer = backbone().encoder.layer[0]
    layer.intermediate.requires_grad_(False)
    layer.attention.self.query.bias.requires_grad_(False)
    call(layer, states())[: LENGTHS.sum()].sum().backward()
    for name, parameter in layer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_micro_batches_of_a_step_add_up():
    layer, plain = backbone().eval().encoder.layer[0], None
    plain = copy.deepcopy(layer)
    direction = torch.randn(20, 16, generator=torch.Generator().manual_seed(4))
    lookup = SharedGradEmbedding(torch.nn.Embedding(2, 2))
    both = [states(), states().detach().flip(0).requires_grad_()]
    sum((call(layer, each, lookup) * direction)[: LENGTHS.sum()].sum() for each in both).backward()
    for each in both:
        (call(plain, each) * direction)[: LENGTHS.sum()].sum().backward()
    for (name, ours), theirs in zip(layer.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_layer_with_adapters_falls_back():
    peft = pytest.importorskip("peft")
    model = backbone().eval()
    before = call(model.encoder.layer[0], states())
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    after = call(model.encoder.layer[0], states())
    assert not torch.allclose(before[: LENGTHS.sum()], after[: LENGTHS.sum()])


def test_a_layer_on_a_gpu_is_not_fused(monkeypatch):
    layer = backbone().eval().encoder.layer[0]
    row = states()[: LENGTHS.sum()].detach()
    before = call(layer, row)
    monkeypatch.setattr(Packing, "on_cpu", False)
    monkeypatch.setattr(fused_layer._Layer, "apply", None)
    torch.testing.assert_close(call(layer, row), before, rtol=1e-4, atol=1e-5)


def test_fusing_can_be_undone_and_copies_are_fused():
    model = backbone()
    original = transformers.models.bert.modeling_bert.BertLayer
    assert isinstance(copy.deepcopy(model).encoder.layer[0], FusedLayer)
    separate_layers(model)
    assert type(model.encoder.layer[0]) is original
    fuse_layers(model)
    assert isinstance(model.encoder.layer[0], original) and isinstance(model.encoder.layer[0], FusedLayer)


@pytest.mark.parametrize(
    "place",
    [
        "attention.self.query",
        "attention.self",
        "intermediate.intermediate_act_fn",
        "output.LayerNorm",
        "output.dropout",
    ],
)
def test_hooks_inside_the_layer_are_called(place):
    layer, called = backbone().encoder.layer[0], []
    layer.get_submodule(place).register_forward_pre_hook(lambda *_: called.append(place))
    call(layer, states())
    assert called


def test_a_pruned_layer_computes_with_its_masked_weights():
    layer = backbone().eval().encoder.layer[0]
    before = call(layer, states())
    prune.l1_unstructured(layer.output.dense, "weight", amount=0.9)
    for _ in range(2):
        call(layer, states())[: LENGTHS.sum()].sum().backward()
    assert not torch.allclose(before, call(layer, states()))
    kept = layer.output.dense.weight_mask.bool()
    assert torch.all(layer.output.dense.weight_orig.grad[~kept] == 0)
