"""On the CPU, what only CUDA kernels compute: attention of `torch.nn.attention.varlen`, softmax from fp16 to fp32.

Shapes: T tokens, H heads of the queries, h heads of keys and values, d width of a head.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor


def forward_one(query: Tensor, key: Tensor, scale: float, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the weights `(H, t, t)` and the logsumexp `(H, t)` of one sequence, for heads `(H, t, d)`."""
    position = torch.arange(query.shape[1])
    distance = position - position[:, None]  # key minus query
    left, right = (len(position) if limit < 0 else limit for limit in window)
    logits = query @ key.transpose(1, 2) * scale
    logits = logits.masked_fill((distance < -left) | (distance > right), float("-inf"))
    return logits.softmax(-1), logits.logsumexp(-1)


def heads(states_THd: Tensor, part: slice, count: int) -> Tensor:
    """Return the tokens of a sequence as `(count, t, d)` in fp32, with heads repeated for grouped queries."""
    heads_Htd = states_THd[part].float().transpose(0, 1)
    return heads_Htd.repeat_interleave(count // len(heads_Htd), 0)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: Any = (-1, -1),
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `torch_attn::_varlen_attn` does."""
    assert query.dtype in (torch.float16, torch.bfloat16)
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q >= int(cu_seq_q.diff().max())
    assert max_k >= int(cu_seq_k.diff().max())
    assert int(cu_seq_q[-1]) == len(query)
    count, out, lse = query.shape[1], torch.empty_like(query), torch.empty(query.shape[1], len(query))
    for part in itertools.starmap(slice, itertools.pairwise(cu_seq_q.tolist())):
        q, k, v = (heads(each, part, count) for each in (query, key, value))
        weights, lse[:, part] = forward_one(q, k, scale or query.shape[-1] ** -0.5, tuple(window_size))
        out[part] = (weights @ v).transpose(0, 1).to(out.dtype)
    return out, lse, torch.zeros(2, dtype=torch.uint64)


def backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    rng_state: Tensor,
    scale: float | None = None,
    window_size: Any = (-1, -1),
) -> tuple[Tensor, ...]:
    """Do what `torch_attn::_varlen_attn_backward` does."""
    count, scale = query.shape[1], scale or query.shape[-1] ** -0.5
    gradients = [torch.empty_like(each) for each in (query, key, value)]
    for part in itertools.starmap(slice, itertools.pairwise(cu_seq_q.tolist())):
        q, k, v, attended, gradient = (heads(each, part, count) for each in (query, key, value, out, grad_out))
        weights, _ = forward_one(q, k, scale, tuple(window_size))
        d_logits = weights * (gradient @ v.transpose(1, 2) - (gradient * attended).sum(-1, keepdim=True))
        d_states = (d_logits @ k * scale, d_logits.transpose(1, 2) @ q * scale, weights.transpose(1, 2) @ gradient)
        for total, each in zip(gradients, d_states, strict=True):
            grouped = each.view(total.shape[1], -1, *each.shape[1:]).sum(1)  # of the queries that share a head
            total[part] = grouped.transpose(0, 1).to(total.dtype)
    return tuple(gradients)


def softmax(states: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """Do what `aten::_softmax` does, also in fp32 for numbers in half precision."""
    return torch.softmax(states.float() if half_to_float else states, dim)


def softmax_backward(gradient: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    """Do what `aten::_softmax_backward_data` does, also from fp32 to half precision."""
    return torch.ops.aten._softmax_backward_data(gradient, output, dim, output.dtype).to(input_dtype)


# By the name of the operator.
OPERATORS = {
    "torch_attn::_varlen_attn": forward,
    "torch_attn::_varlen_attn_backward": backward,
    "aten::_softmax": softmax,
    "aten::_softmax_backward_data": softmax_backward,
}
