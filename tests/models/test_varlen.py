"""Each limit of torch's attention for sequences of different lengths is met, or another attention is used."""

import time
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.models import varlen
from finetune.models.attention import packed_attention
from finetune.models.packing import Packing
from finetune.models.varlen import device_refusal, refusal, version_refusal
from tests.models.varlen_stand_in import StandIn, gpu

LENGTHS = [1, 3, 3, 12]
CPU = torch.device("cpu")
WIDE = 264


def states(heads=2, key_heads=2, width=8, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, h, sum(LENGTHS), width, generator=generator).to(dtype).requires_grad_()
        for h in (heads, key_heads, key_heads)
    ]


def attended(inputs, dropout=0.0, **gpu_settings):
    """Return the result of packed attention on a GPU, its gradients, and the calls of the kernel."""
    inputs = [each.detach().requires_grad_() for each in inputs]  # a view stays one
    with gpu(**gpu_settings) as kernels:
        out, _ = packed_attention(types.SimpleNamespace(), *inputs, None, Packing(np.array(LENGTHS), CPU), dropout)
        out.float().square().sum().backward()
    return out, [each.grad for each in inputs], kernels.calls


def expected(inputs):
    """Return the same in fp64 on a CPU."""
    inputs = [each.detach().double().requires_grad_() for each in inputs]
    out, _ = packed_attention(types.SimpleNamespace(), *inputs, None, Packing(np.array(LENGTHS), CPU))
    out.square().sum().backward()
    return out, [each.grad for each in inputs]


def check(inputs, **gpu_settings):
    out, gradients, calls = attended(inputs, **gpu_settings)
    exact, exact_gradients = expected(inputs)
    torch.testing.assert_close(out.double(), exact, rtol=0.02, atol=0.02)
    for ours, theirs in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max() + 1))
    return calls


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_uses_the_kernel(dtype):
    (call,) = check(states(dtype=dtype))
    assert call.dtype == dtype and call.shapes == [(19, 2, 8)] * 3
    assert call.bounds == [0, 1, 4, 7, 19] and call.longest >= 12


@pytest.mark.parametrize("width", [1, 12, 20, 100])
def test_heads_of_any_width_are_widened_to_a_multiple_of_8(width):
    (call,) = check(states(width=width))
    assert call.shapes[0][-1] % 8 == 0 and 0 < call.shapes[0][-1] - width < 8
    assert call.scale == pytest.approx(width**-0.5)


@pytest.mark.parametrize("width", [193, 200, 224])
def test_widths_without_a_backward_pass_on_small_gpus_are_widened(width):
    (call,) = check(states(width=width), capability=(8, 9))
    assert call.shapes[0][-1] == 256


@pytest.mark.parametrize(("width", "calls"), [(256, 1), (257, 0), (WIDE, 0)])
def test_wider_heads_are_padded_to_the_longest_sequence(width, calls):
    assert len(check(states(width=width))) == calls


def test_single_precision_is_padded_to_the_longest_sequence():
    assert not check(states(dtype=torch.float32))


def test_dropout_of_weights_is_that_of_the_kernel():
    torch.manual_seed(0)
    plain, _, _ = attended(states())
    dropped, _, (call,) = attended(states(), dropout=0.5)
    assert call.dropout == 0.5 and not torch.allclose(plain, dropped)
    # Over many draws its mean is the attention without dropout.
    draws = torch.stack([attended(states(), dropout=0.5)[0].detach() for _ in range(300)]).float()
    torch.testing.assert_close(draws.mean(0), plain.detach().float(), rtol=0, atol=0.4)
    assert abs(float((draws.mean(0) - plain.detach().float()).mean())) < 0.02


@pytest.mark.parametrize("window", [None, 4])
def test_gradients_with_dropout_by_finite_differences(window):
    inputs = [each.detach().double().requires_grad_() for each in states(heads=4, key_heads=2)]

    def forward(*inputs):
        torch.manual_seed(0)
        packing, module = Packing(np.array(LENGTHS), CPU), types.SimpleNamespace(is_causal=window is not None)
        return packed_attention(module, *inputs, None, packing, 0.3, sliding_window=window)[0]

    with gpu(torch.float64) as kernels:
        assert torch.autograd.gradcheck(forward, inputs, fast_mode=True, check_undefined_grad=False)
    assert {call.dropout for call in kernels.calls} == {0.3}


def test_wide_heads_with_dropout_are_padded_to_the_longest_sequence():
    assert len(attended(states(width=192), dropout=0.1)[2]) == 1
    assert not attended(states(width=200), dropout=0.1)[2]


@pytest.mark.parametrize("heads", [(4, 2), (4, 1)])
def test_grouped_heads_are_not_repeated(heads):
    (call,) = check(states(*heads))
    assert [shape[1] for shape in call.shapes] == [heads[0], heads[1], heads[1]]


def strided(each):
    """The same values with others between them."""
    wider = torch.zeros(*each.shape, 2, dtype=each.dtype)
    wider[..., 0] = each.detach()
    return wider[..., 0]


def between(each):
    """The same values in rows that do not begin at multiples of 16 bytes."""
    wider = torch.zeros(*each.shape[:-1], each.shape[-1] + 4, dtype=each.dtype)
    wider[..., :-4] = each.detach()
    return wider[..., :-4]


def offset(each):
    buffer = torch.zeros(each.numel() + 1, dtype=each.dtype)
    buffer[1:] = each.detach().flatten()
    return buffer[1:].view(each.shape)


@pytest.mark.parametrize("layout", [strided, between, offset])
@pytest.mark.parametrize("place", range(3))
def test_unaligned_states_are_copied(layout, place):
    inputs = states()
    inputs[place] = layout(inputs[place])
    assert len(check(inputs)) == 1


def test_aligned_states_are_not_copied():
    qkv = torch.zeros(19, 3, 2, 8, dtype=torch.bfloat16)
    for each in qkv.unbind(1):
        assert varlen._aligned(varlen._widened(each)).data_ptr() == each.data_ptr()


def test_many_sequences_are_attended_in_several_calls(monkeypatch):
    assert StandIn().max_sequences == varlen.MAX_SEQUENCES
    monkeypatch.setattr(varlen, "MAX_SEQUENCES", 3)
    calls = check(states(4, 2), max_sequences=3)
    assert [call.bounds for call in calls] == [[0, 1, 4, 7], [0, 12]]


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=9))
def test_the_bound_of_the_longest_sequence_is_an_upper_bound_with_few_values(lengths):
    packing = Packing(np.array(lengths), CPU)
    assert max(lengths) <= packing.longest_bound < max(65, 2 * max(lengths))
    assert packing.longest_bound.bit_count() == 1
    assert packing.bounds.dtype == torch.int32 and packing.bounds.is_contiguous()


@pytest.fixture
def nvidia(monkeypatch):
    """A torch with CUDA on an A100."""
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    return monkeypatch


def test_a_gpu_since_ampere_is_used(nvidia):
    assert device_refusal(torch.device("cuda", 1)) is None
    nvidia.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    assert device_refusal(torch.device("cuda")) is None


def test_other_devices_are_refused(nvidia):
    for device in ("cpu", "mps", "xpu"):
        assert "NVIDIA" in device_refusal(torch.device(device))
    nvidia.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "Ampere" in device_refusal(torch.device("cuda"))
    nvidia.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert "without FlashAttention" in device_refusal(torch.device("cuda"))
    nvidia.setattr(torch.version, "hip", "7.0")
    assert "NVIDIA" in device_refusal(torch.device("cuda"))


def test_an_older_gpu_is_padded_to_the_longest_sequence(nvidia):
    nvidia.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with gpu(capability=(7, 5)) as kernels, pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "device_refusal", lambda device: device_refusal(torch.device("cuda")))
        out, _ = packed_attention(types.SimpleNamespace(), *states(), None, Packing(np.array(LENGTHS), CPU))
    assert not kernels.calls
    torch.testing.assert_close(out.double(), expected(states())[0], rtol=0.02, atol=0.02)


def test_compiled_code_takes_the_checks_as_constants(nvidia):
    """No call into the driver, which is not traceable, breaks the graph."""

    def capability(device):
        time.sleep(0)
        return (8, 0)

    nvidia.setattr(torch.cuda, "get_device_capability", capability)
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def compiled(values):
        return values + (device_refusal(torch.device("cuda", 0)) is None) + (version_refusal(True) is None)

    assert torch.equal(compiled(torch.zeros(2)), torch.full((2,), 2.0))


def of_torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    raise AssertionError


def of_torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    return query * 0


def test_versions_of_torch_without_an_argument_are_padded_to_the_longest_sequence(monkeypatch):
    assert version_refusal(grouped_heads=True) is None
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", of_torch_2_10)
    assert "no scale and window_size" in version_refusal(grouped_heads=False)
    check(states())
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", of_torch_2_11)
    assert "no enable_gqa" in version_refusal(grouped_heads=True)
    check(states(4, 2))
    assert not attended(states())[0].any()  # equal numbers of heads are not padded


def test_the_reasons_name_the_limit():
    query = torch.zeros(3, 2, 8)
    assert "not in torch.float32" in refusal(query, query, 0.0)
    wide = torch.zeros(1, 1, 200)
    assert "wider than 192" in refusal(wide.half(), wide.half(), 0.1)
    assert "wider than 256" in refusal(torch.zeros(3, 2, WIDE).half(), query, 0.0)
    assert "NVIDIA" in refusal(query.half(), query.half(), 0.0)
