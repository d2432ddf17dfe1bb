"""The stand-in for the CUDA kernels has their signatures, values, gradients and errors."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.varlen import AuxRequest, varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from tests.models.varlen_stand_in import HALF, StandIn, kernels

EXACT = (*HALF, torch.float32, torch.float64)
WINDOWS = st.sampled_from([(-1, -1), (-1, 0), (0, 0), (2, 0), (2, 2), (1, 3), (-1, 2), (3, -1), (50, 50)])


def test_the_signature_of_torch_is_the_one_that_is_called():
    signature = inspect.signature(varlen_attn)
    by_place = [name for name, each in signature.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    by_name = {name: each.default for name, each in signature.parameters.items() if each.kind is each.KEYWORD_ONLY}
    assert by_place == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert by_name == {
        "return_aux": None, "scale": None, "window_size": (-1, -1), "enable_gqa": False, "seqused_k": None,
        "block_table": None, "num_splits": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_the_signatures_of_the_stand_in_are_those_of_the_kernels(name):
    arguments = getattr(torch.ops.aten, f"_flash_attention_{name}").default._schema.arguments
    parameters = list(inspect.signature(getattr(StandIn(), name)).parameters.values())
    assert [each.name for each in parameters] == [each.name for each in arguments]
    assert [each.kind is each.KEYWORD_ONLY for each in parameters] == [each.kwarg_only for each in arguments]


def made(lengths, heads, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = [
        torch.randn(sum(lengths), h, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for h in (heads[0], heads[1], heads[1])
    ]
    return states, torch.tensor([0, *lengths]).cumsum(0).int()


def naive(query, key, value, lengths, window, scale):
    """Each sequence by itself, in the dtype of the states."""
    parts = []
    for q, k, v in zip(*(each.split(lengths) for each in (query, key, value)), strict=True):
        place = torch.arange(len(q))
        seen = torch.ones(len(q), len(q), dtype=torch.bool)
        if window[0] >= 0:
            seen &= place >= place.unsqueeze(1) - window[0]
        if window[1] >= 0:
            seen &= place <= place.unsqueeze(1) + window[1]
        states = (each.transpose(0, 1).unsqueeze(0) for each in (q, k, v))
        attended = scaled_dot_product_attention(*states, attn_mask=seen, scale=scale, enable_gqa=True)
        parts.append(attended[0].transpose(0, 1))
    return torch.cat(parts)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum),
    st.sampled_from([(1, 1), (4, 4), (4, 2), (4, 1)]),
    st.sampled_from([8, 16, 40]),
    WINDOWS,
    st.sampled_from([None, 0.3]),
    st.sampled_from([(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]),
    st.integers(0, 999),
)
def test_values_and_gradients_are_those_of_each_sequence_by_itself(
    lengths, heads, width, window, scale, precision, seed
):
    dtype, tolerance = precision
    states, bounds = made(lengths, heads, width, dtype, seed)
    exact = [each.detach().double().requires_grad_() for each in states]
    with kernels(StandIn(EXACT)):
        out, sums = varlen_attn(
            *states, bounds, bounds, max(lengths), max(lengths), scale=scale, window_size=window,
            enable_gqa=heads[0] != heads[1], return_aux=AuxRequest(lse=True),
        )  # fmt: skip
        expected = naive(*exact, lengths, window, scale)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (out.double() * direction).sum().backward()
    (expected * direction).sum().backward()
    assert out.dtype == dtype and sums.shape == (heads[0], len(out))
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(states, exact, strict=True):
        scale_of_gradient = float(theirs.grad.abs().max()) + 1
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=tolerance, atol=tolerance * scale_of_gradient)


def test_rows_after_the_last_sequence_are_not_written():
    states, _ = made([5], (2, 2), 8, torch.float64)
    bounds = torch.tensor([0, 1, 3], dtype=torch.int32)
    with kernels(StandIn(EXACT)):
        out = varlen_attn(*states, bounds, bounds, 2, 2)
        out[:3].sum().backward()
    for each in (out, *(tensor.grad for tensor in states)):
        assert not each[:3].isnan().any() and each[3:].isnan().all()


def call(message, heads=(2, 2), width=8, dtype=torch.float16, capability=(8, 0), **changed):
    (query, key, value), bounds = made([3, 2], heads, width, dtype)
    given = {"query": query, "key": key, "value": value, "cu_seq_q": bounds, "cu_seq_k": bounds, "max_q": 3, "max_k": 3}
    with kernels(StandIn(capability=capability)), pytest.raises((RuntimeError, ValueError), match=message):
        varlen_attn(**given | changed).sum().backward()


HALVES = torch.zeros(5, 2, 8, dtype=torch.float16)


@pytest.mark.parametrize(
    ("message", "more"),
    [
        ("Ampere GPUs or newer", {"capability": (7, 5)}),
        ("only support fp16 and bf16", {"dtype": torch.float32}),
        ("query and key must have the same dtype", {"key": HALVES.bfloat16()}),
        ("query and value must have the same dtype", {"value": HALVES.bfloat16()}),
        ("contiguous last dimension", {"query": HALVES.transpose(1, 2).contiguous().transpose(1, 2)}),
        ("at most 256", {"width": 264}),
        ("multiple of 8", {"width": 12}),
        ("shared memory", {"width": 200, "capability": (8, 6)}),
        ("v must have shape", {"value": HALVES[:4]}),
        ("k must have shape", {"key": HALVES.repeat(1, 1, 2), "value": HALVES.repeat(1, 1, 2)}),
        ("same number of heads", {"heads": (4, 2)}),
        ("multiple of kv heads", {"heads": (3, 2), "enable_gqa": True}),
        ("cu_seqlens_q must have dtype int32", {"cu_seq_q": torch.tensor([0, 3, 5])}),
        ("cu_seqlens_k must have dtype int32", {"cu_seq_k": torch.tensor([0, 3, 5])}),
        ("must be contiguous", {"cu_seq_q": torch.tensor([0, 9, 3, 9, 5, 9], dtype=torch.int32)[::2]}),
        ("must have shape", {"cu_seq_k": torch.tensor([0, 5], dtype=torch.int32)}),
        ("longer than the given maximum", {"max_q": 2}),
        ("longer than the given maximum", {"max_k": 2}),
        ("does not increase from 0", {"cu_seq_q": torch.tensor([0, 3, 2], dtype=torch.int32)}),
        ("ends after the last row", {"cu_seq_q": torch.tensor([0, 3, 6], dtype=torch.int32)}),
        ("batch size must be positive", {"cu_seq_q": torch.tensor([0], dtype=torch.int32)}),
        ("too many sequences", {"cu_seq_q": torch.zeros(65_537, dtype=torch.int32)}),
        ("misaligned", {"query": torch.zeros(5, 2, 12, dtype=torch.float16)[:, :, 4:]}),
        ("must have length 2", {"window_size": (1, 2, 3)}),
    ],
)
def test_errors(message, more):
    call(message, **more)
