"""Packed attention equals attention of each sequence by itself."""

import contextlib
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from finetune.models.attention import packed_attention
from finetune.models.dropout import keep_mask
from finetune.models.packing import Packing
from tests.models.varlen_stand_in import gpu

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def states(lengths, heads, key_heads, width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    total = int(np.sum(lengths))
    return [
        torch.randn(1, h, total, width, generator=generator, dtype=dtype).requires_grad_()
        for h in (heads, key_heads, key_heads)
    ]


def alone(query, key, value, lengths, window, causal, scale):
    """Each sequence by torch's own attention, with the window as a mask."""
    parts, start = [], 0
    for length in lengths:
        rows = slice(start, start + length)
        place = torch.arange(length)
        distance = place.unsqueeze(0) - place.unsqueeze(1)
        seen = torch.ones(length, length, dtype=torch.bool)
        if causal:
            seen &= distance <= 0
        if window:
            seen &= distance.abs() < window
        parts.append(
            scaled_dot_product_attention(
                query[:, :, rows], key[:, :, rows], value[:, :, rows], attn_mask=seen, scale=scale, enable_gqa=True
            )
        )
        start += length
    return torch.cat(parts, 2).transpose(1, 2)


@pytest.mark.parametrize("by", ["groups", "padded", "varlen"])
@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([(1, 1), (4, 4), (4, 2)]), st.integers(0, 6), st.booleans(), st.integers(0, 999))
def test_values_and_gradients(by, lengths, heads, window, causal, seed):
    ours, theirs = (states(lengths, *heads, 3, seed) for _ in range(2))
    packing = Packing(np.array(lengths), CPU)
    module = types.SimpleNamespace(is_causal=causal)
    with contextlib.nullcontext() if by == "groups" else gpu(*([torch.float64] if by == "varlen" else [])) as kernels:
        out, _ = packed_attention(module, *ours, None, packing, scaling=0.4, sliding_window=window or None)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
        (out * direction).sum().backward()
    assert by == "groups" or len(kernels.calls) == (by == "varlen")
    expected = alone(*theirs, lengths, window, causal, 0.4)
    (expected * direction).sum().backward()
    torch.testing.assert_close(out, expected)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad)


def test_gradients_with_dropout_by_finite_differences():
    packing = Packing(np.array([3, 3, 5]), CPU)

    def attend(*inputs):
        torch.manual_seed(7)  # the same elements are dropped every time
        return packed_attention(types.SimpleNamespace(), *inputs, None, packing, dropout=0.3)[0]

    assert torch.autograd.gradcheck(attend, states([3, 3, 5], 2, 2, 4, 1))


def test_dropout_applies_to_the_attention_weights():
    lengths = [4, 4]
    query, key, value = (tensor.detach() for tensor in states(lengths, 2, 2, 3, 5))
    torch.manual_seed(11)
    out, _ = packed_attention(
        types.SimpleNamespace(), query, key, value, None, Packing(np.array(lengths), CPU), dropout=0.4
    )
    torch.manual_seed(11)
    mask, scale = keep_mask((4, 4, 4), 0.4)
    q, k, v = (x[0].view(2, 2, 4, 3).transpose(0, 1) for x in (query, key, value))  # (n, H, t, d)
    weights = torch.softmax(q @ k.transpose(-1, -2) * 3**-0.5, -1) * mask.neg().view(2, 2, 4, 4) * scale
    torch.testing.assert_close(out, (weights @ v).transpose(1, 2).reshape(1, 8, 2, 3))


def test_mixed_precision_gives_the_values_dtype():
    query, key, value = states([3, 2], 2, 2, 4, 0, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = packed_attention(
            types.SimpleNamespace(), query, key, value.bfloat16(), None, Packing(np.array([3, 2]), CPU), dropout=0.1
        )
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert query.grad.dtype == torch.float32


@pytest.mark.parametrize("more", [{"softcap": 50.0}, {"position_bias": torch.zeros(1)}])
def test_unsupported_arguments_raise(more):
    with pytest.raises(NotImplementedError, match=next(iter(more))):
        packed_attention(types.SimpleNamespace(), *states([2], 1, 1, 2, 0), None, Packing(np.array([2]), CPU), **more)


@given(LENGTHS)
def test_unpad_is_the_inverse_of_pad(lengths):
    packing = Packing(np.array(lengths), CPU)
    row = torch.arange(sum(lengths)).unsqueeze(1)
    padded = packing.pad(row)
    assert padded.shape == (len(lengths), max(lengths), 1)
    assert torch.equal(packing.unpad(padded), row)
    assert packing.mask().sum(1).tolist() == lengths
    assert packing.bounds.diff().tolist() == lengths
    assert packing.positions().tolist() == [place for length in lengths for place in range(length)]
