"""Whole models compute packed texts on a GPU as padded ones: through the kernel for sequences of different lengths.

The kernel is the stand-in of `varlen_stand_in.py`, so a CPU computes with the shapes and bounds of a GPU.
"""

import numpy as np
import pytest
import torch

from finetune.models.packed_backbone import pack_backbone
from finetune.models.packing import Packing
from tests.conftest import thorough
from tests.models.test_packed_backbone import PACKED, make
from tests.models.varlen_stand_in import gpu

LENGTHS = [[1, 3, 3, 17, 30], [5], [1], [7, 7, 7], [30, 1, 9]]
MODELS = ["Bert", "Roberta", "ModernBert", "Qwen3", "Mistral"]
LAYERS = 2


def packed_and_padded(name, lengths, dtype, **more):
    """Return the states of packed and padded texts, both models after a backward pass, and the calls of the kernel."""
    settings = PACKED[name] | more
    plain, ours = make(name, settings).to(dtype), make(name, settings).to(dtype)
    run = pack_backbone(ours.float(), pad_id=1)
    assert run is not None
    ours.to(dtype)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 90, (sum(lengths),), generator=generator)
    packing = Packing(np.array(lengths), torch.device("cpu"))
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
