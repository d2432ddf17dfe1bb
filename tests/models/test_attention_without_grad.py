"""Attention without gradients equals that which a training computes, which `test_attention.py` holds to torch's own."""

import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.models.attention import packed_attention
from finetune.models.attention_without_grad import attend
from finetune.models.packing import Packing
from tests.models.test_attention import LENGTHS, alone, states

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([(1, 1), (4, 4), (4, 2)]), st.integers(0, 6), st.booleans(), st.integers(0, 999))
def test_equals_each_sequence_alone(dtype, lengths, heads, window, causal, seed):
    exact = [each.detach() for each in states(lengths, *heads, 3, seed)]
    rounded = [each.to(dtype) for each in exact]
    with torch.no_grad():
        found, _ = packed_attention(
            types.SimpleNamespace(is_causal=causal), *rounded, None, Packing(np.array(lengths), CPU), scaling=0.4,
            sliding_window=window or None,
        )  # fmt: skip
    expected = alone(*(each.double() for each in rounded), lengths, window, causal, 0.4)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[3, 3], [1, 4, 90, 200, 200, 256]])
def test_rows_of_padding_are_zero_whatever_they_hold(dtype, lengths):
    tokens = sum(lengths)
    parts_TPHd = torch.randn(tokens + 5, 3, 2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    parts_TPHd[tokens:] = torch.nan
    found = attend(parts_TPHd, Packing(np.array(lengths), CPU), 0.5)
    assert found[:tokens].isfinite().all() and not found[tokens:].any()
