"""Whole models compute packed texts on a GPU as padded ones: through the kernel for sequences of different lengths.

The kernel is the stand-in of `varlen_stand_in.py`, so a CPU computes with the shapes and bounds of a GPU.
"""

import numpy as np
import pytest
import torch

from finetune.encoding.engine import Engine
from finetune.models.packed_backbone import pack_backbone
from finetune.models.packing import Packing
from finetune.models.text import TextEncoder
from tests.conftest import thorough
from tests.models.test_packed_backbone import PACKED, make
from tests.models.tiny import tiny
from tests.models.varlen_stand_in import gpu

# The first has a number of tokens to which a CPU adds rows of padding.
LENGTHS = [[1, 3, 3, 17, 31], [5], [1], [7, 7, 7], [30, 1, 9]]
MODELS = ["Bert", "Roberta", "ModernBert", "Qwen3", "Mistral"]
LAYERS = 2
CPU = torch.device("cpu")


def packed_and_padded(name, lengths, dtype, **more):
    """Return the states of packed and padded texts, both models after a backward pass, and the calls of the kernel."""
    settings = PACKED[name] | more
    plain, ours = make(name, settings).to(dtype), make(name, settings).to(dtype)
    run = pack_backbone(ours.float(), pad_id=1)
    assert run is not None
    ours.to(dtype)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 90, (sum(lengths),), generator=generator)
    packing = Packing(np.array(lengths), CPU)
    direction = torch.randn(sum(lengths), 32, generator=generator)
    with gpu(torch.float32) as kernels:
        (states,) = run(ours.get_input_embeddings()(ids), packing)
        (states.float() * direction).sum().backward()
    padded_ids = packing.pad(ids).masked_fill(~packing.mask(), 1)
    expected = packing.unpad(plain(input_ids=padded_ids, attention_mask=packing.mask().long()).last_hidden_state)
    (expected.float() * direction).sum().backward()
    return states, expected, ours, plain, kernels.calls


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", [*MODELS, *(thorough(name) for name in PACKED if name not in MODELS)])
def test_values_and_gradients_equal_padded_texts(name, lengths):
    states, expected, ours, plain, calls = packed_and_padded(name, lengths, torch.float32)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    for (key, p), (_, q) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5 * float(q.grad.abs().max() + 1), msg=key)
    assert len(calls) == LAYERS
    for call in calls:
        # No padding, neither of texts nor at the end of the row, which the kernel would leave uninitialized.
        assert [shape[0] for shape in call.shapes] == [sum(lengths)] * 3
        assert call.bounds == [0, *np.cumsum(lengths)]
        assert call.longest >= max(lengths)


@pytest.mark.parametrize("dtype", [torch.bfloat16, thorough(torch.float16)])
@pytest.mark.parametrize("name", ["Bert", "ModernBert", "Qwen3"])
def test_half_precision_is_as_close_to_single_precision_as_padded_texts(name, dtype):
    lengths = LENGTHS[0]
    exact, _, exact_model, _, _ = packed_and_padded(name, lengths, torch.float32)
    packed, padded, ours, plain, calls = packed_and_padded(name, lengths, dtype)
    assert [call.dtype for call in calls] == [dtype] * LAYERS
    assert _error(packed, exact) < 1.5 * _error(padded, exact) + 1e-3
    found, theirs = (torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (ours, plain))
    correct = torch.cat([p.grad.flatten() for p in exact_model.parameters() if p.grad is not None])
    assert _error(found, correct) < 1.5 * _error(theirs, correct) + 1e-3


def _error(found, exact):
    return float(((found.float() - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize(("name", "more"), [("Bert", {"num_attention_heads": 8}), ("Qwen3", {"head_dim": 12})])
def test_heads_whose_width_is_no_multiple_of_8(name, more):
    states, expected, ours, plain, calls = packed_and_padded(name, LENGTHS[0], torch.float32, **more)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    assert all(call.shapes[0][-1] % 8 == 0 for call in calls)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5 * float(q.grad.abs().max() + 1))


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("Bert", [(-1, -1)] * 2),
        ("ModernBert", [(-1, -1), (4, 4)]),
        ("Qwen3", [(-1, 0)] * 2),
        ("Mistral", [(5, 0)] * 2),
    ],
)
def test_causal_and_sliding_windows_reach_the_kernel(name, windows):
    *_, calls = packed_and_padded(name, LENGTHS[0], torch.float32)
    assert [call.window for call in calls] == windows


def test_a_decoder_has_fewer_heads_of_keys():
    *_, calls = packed_and_padded("Qwen3", LENGTHS[0], torch.float32)
    assert [[shape[1] for shape in call.shapes] for call in calls] == [[4, 2, 2]] * LAYERS


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3"])
@pytest.mark.parametrize("kept_mb", [0, 100])
def test_micro_batches_of_a_step_give_the_gradients_of_a_cpu(kind, kept_mb, tmp_path):
    """Also with recomputation: no layer is fused, and each micro-batch has bounds of its own."""
    encoder = TextEncoder(str(tiny(kind, tmp_path)), dropout=0.0).train()
    assert encoder.packs
    lengths = np.array([1, 4, 4, 9, 2, 7])
    ids = torch.randint(4, 50, (int(lengths.sum()),), generator=torch.Generator().manual_seed(0))
    direction = torch.randn(len(lengths), encoder.width, generator=torch.Generator().manual_seed(1))

    def step():
        encoder.zero_grad()
        emb = Engine(10, kept_mb).encode(encoder, ids, lengths)
        (emb * direction).sum().backward()
        return emb.detach(), {key: p.grad.clone() for key, p in encoder.named_parameters() if p.grad is not None}

    expected, expected_gradients = step()
    with gpu(torch.float32) as kernels:
        emb, gradients = step()
    torch.testing.assert_close(emb, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for key, ours in gradients.items():
        theirs = expected_gradients[key]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max() + 1), msg=key)
    assert len(kernels.calls) > LAYERS and max(call.shapes[0][0] for call in kernels.calls) <= 10


MANY = [[1, 3, 3, 17, 30], [2, 4, 9], [5, 5, 70], [100, 200], [7, 8], [300, 20, 20, 20]]


@pytest.mark.parametrize("name", ["Bert", thorough("ModernBert"), thorough("Qwen3")])
@pytest.mark.parametrize("half", [True, False], ids=["kernel", "padded"])
def test_compiled_code_is_one_graph_for_texts_of_all_lengths(name, half):
    """A graph break would cost its gain, and compiling for each longest text a minute each time."""
    torch._dynamo.reset()
    model = make(name, PACKED[name])
    run, graphs = pack_backbone(model, pad_id=1), []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randint(2, 90, (sum(lengths),), generator=generator), np.array(lengths)) for lengths in MANY]
    with gpu(*([torch.float32] if half else [])) as kernels, torch.no_grad():
        expected = [run(model.get_input_embeddings()(ids), Packing(lengths, CPU))[0] for ids, lengths in batches]
        model.compile(dynamic=True, backend=count)
        for (ids, lengths), states in zip(batches, expected, strict=True):
            (compiled,) = run(model.get_input_embeddings()(ids), Packing(lengths, CPU))
            torch.testing.assert_close(compiled, states, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1
    assert len(kernels.calls) == (2 * LAYERS * len(MANY) if half else 0)
