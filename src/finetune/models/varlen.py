"""Attention of torch for sequences of different lengths, `torch.nn.attention.varlen`: its limits, and how to call it.

It is FlashAttention-2 (Dao 2023, https://arxiv.org/abs/2307.08691). `refusal` states the limits that rule it out, and
`attend` meets the others:

- The width of a head is a multiple of 8, and the backward pass has none of 193 to 224 on GPUs with little shared
  memory (compute capability 8.6, 8.9, 12.x): zeros are added, which change no product.
- The last dimension is contiguous, and rows begin at multiples of 16 bytes: other tensors are copied.
- One call has at most 65,535 sequences, a dimension of the grid of thread blocks: more are attended in several calls.
- `max_q` and `max_k` are not less than the longest sequence, which no kernel checks: `Packing.longest_bound`.
- The bounds are contiguous int32 on the device of the queries: `Packing.bounds`.
- Rows after the last sequence are never written, in neither pass: only a CPU gets rows of padding (`Packing.on_cpu`).
- A causal window is (left, 0), and -1 has no limit.
- Dropout of attention weights is not among the arguments of `varlen_attn`. The operator below it, which nested tensors
  call in the same way (torch/nested/_internal/sdpa.py), has it; wider heads than 192 have no backward pass with it on
  GPUs with little shared memory.
- Bit-identical gradients need `torch.use_deterministic_algorithms(True)`, which the kernel obeys.

Sources, of torch 2.10 to 2.13: torch/nn/attention/varlen.py, and flash_api.cpp, flash_fwd_launch_template.h and
sdp_utils.cpp in aten/src/ATen/native/transformers/cuda.

Shapes: T tokens of all sequences in a row, H heads, K heads of keys and values, d width of a head.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Set
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.models.packing import Packing

DTYPES = (torch.float16, torch.bfloat16)
MAX_WIDTH = 256
MAX_WIDTH_WITH_DROPOUT = 192
MAX_SEQUENCES = 65_535
_MIN_CAPABILITY = (8, 0)
_CAUSAL = (-1, 0)  # a window
_ALIGNMENT = 8  # elements of half precision in 16 bytes
_NO_BACKWARD = range(193, 225)


def refusal(query_THd: Tensor, key_TKd: Tensor, dropout: float) -> str | None:
    """Return why these cannot be attended by `attend`, `None` if they can; the keys have the dtype of the queries."""
    if query_THd.dtype not in DTYPES:
        return f"it computes in float16 or bfloat16, not in {query_THd.dtype}"
    widest = MAX_WIDTH_WITH_DROPOUT if dropout else MAX_WIDTH
    if query_THd.shape[-1] > widest:
        return f"heads are wider than {widest}"
    on_device: str | None = device_refusal(query_THd.device)
    return on_device or cast(str | None, version_refusal(query_THd.shape[1] != key_TKd.shape[1]))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def device_refusal(device: torch.device) -> str | None:
    """Return why a device cannot be used, `None` if it can."""
    if device.type != "cuda" or torch.version.hip:
        return "it needs a GPU of NVIDIA"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this torch was built without FlashAttention"
    if torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return "the GPU is older than Ampere (compute capability 8.0)"
    return None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def version_refusal(grouped_heads: bool) -> str | None:
    """Return why this torch cannot be used, `None` if it can."""
    from torch.nn.attention.varlen import varlen_attn

    needed = {"scale", "window_size"}  # since torch 2.11
    if grouped_heads:
        needed.add("enable_gqa")  # since torch 2.12
    missing = needed - _parameters(varlen_attn)
    return f"torch {torch.__version__} has no {' and '.join(sorted(missing))} for it" if missing else None


@functools.cache
def _parameters(function: Callable[..., Any]) -> Set[str]:
    return inspect.signature(function).parameters.keys()


def attend(
    query_THd: Tensor,
    key_TKd: Tensor,
    value_TKd: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: tuple[int, int],
) -> Tensor:
    """Return the attention `(T, H, d)` within each sequence; a token attends `window` tokens to the left and right."""
    width = query_THd.shape[-1]
    query, key, value = (_aligned(_widened(each)) for each in (query_THd, key_TKd, value_TKd))
    longest = packing.longest_bound
    if len(packing.bounds) - 1 <= MAX_SEQUENCES:
        return _call(query, key, value, packing.bounds, longest, scale, dropout, window)[..., :width]
    parts = [
        _call(query[rows], key[rows], value[rows], bounds, longest, scale, dropout, window)
        for rows, bounds in packing.parts(MAX_SEQUENCES)
    ]
    return torch.cat(parts)[..., :width]


def _call(
    query_THd: Tensor,
    key_TKd: Tensor,
    value_TKd: Tensor,
    bounds: Tensor,
    longest: int,
    scale: float,
    dropout: float,
    window: tuple[int, int],
) -> Tensor:
    if dropout:
        left, right = window
        attended: Tensor = torch.ops.aten._flash_attention_forward(
            query_THd,
            key_TKd,
            value_TKd,
            bounds,
            bounds,
            longest,
            longest,
            dropout,
            window == _CAUSAL,
            False,  # no debug mask
            scale=scale,
            window_size_left=left,
            window_size_right=right,
        )[0]
        return attended
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scale, "window_size": window}
    if query_THd.shape[1] != key_TKd.shape[1]:
        options["enable_gqa"] = True
    return cast(Tensor, varlen_attn(query_THd, key_TKd, value_TKd, bounds, bounds, longest, longest, **options))


def _widened(states: Tensor) -> Tensor:
    """Return states with zeros up to a width of a head that both passes have."""
    width = states.shape[-1]
    wanted = MAX_WIDTH if width in _NO_BACKWARD else width + -width % _ALIGNMENT
    return states if wanted == width else nn.functional.pad(states, (0, wanted - width))


def _aligned(states: Tensor) -> Tensor:
    """Return states whose rows begin at multiples of 16 bytes, a copy if these do not."""
    if torch.compiler.is_compiling():
        return states.contiguous()  # compiled code has no offsets
    *outer, last = states.stride()
    if last == 1 and not any(step % _ALIGNMENT for step in (*outer, states.storage_offset())):
        return states
    return states.clone(memory_format=torch.contiguous_format)
