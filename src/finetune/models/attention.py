"""Attention over packed sequences: texts concatenated in one row, each attending only to itself.

Without padding, no layer computes anything for padding tokens. It is registered with transformers, whose models then
run on a row of tokens unchanged. There are three ways: on a CPU in groups of similar length (`group_attention.py`); on
a GPU with the kernel for sequences of different lengths (`varlen.py`), or padded where that kernel has a limit.

Shapes: T tokens of all sequences in a row, n sequences, t the longest, H heads, b = n * H, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.attention_without_grad import attend as attend_without_grad
from finetune.models.group_attention import GroupAttention, put_rows, window_mask
from finetune.models.packing import Group, Packing
from finetune.models.varlen import attend, refusal

NAME = "finetune_packed"


def register() -> None:
    """Register the attention with transformers as `NAME`.

    Deliberately without a mask function of that name: transformers then makes no masks, and only the packing counts.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def register_uncompiled() -> None:
    """Exclude attention from compilation: its shapes change with every batch."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))  # type: ignore[no-untyped-call]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return `(1, T, H, d)` of queries `(1, H, T, d)`; keys and values may have fewer heads.

    Raises:
        NotImplementedError: the model passes arguments that this attention does not support.
    """
    unsupported = [name for name in ("softcap", "s_aux", "position_bias", "cache") if kwargs.get(name) is not None]
    if attention_mask is not None or unsupported:
        raise NotImplementedError(f"packed attention with {unsupported or 'a mask'}")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    left = -1 if sliding_window is None else sliding_window - 1  # -1: no limit
    window = (left, 0 if is_causal else left)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THd = query[0].transpose(0, 1).to(value.dtype)
    key_THd = key[0].transpose(0, 1).to(value.dtype)
    value_THd = value[0].transpose(0, 1)
    if refusal(query_THd, key_THd, dropout) is None:
        return attend(query_THd, key_THd, value_THd, packing, scale, dropout, window).unsqueeze(0), None
    repeats = query_THd.shape[1] // key_THd.shape[1]
    if repeats > 1:
        key_THd = key_THd.repeat_interleave(repeats, 1)
        value_THd = value_THd.repeat_interleave(repeats, 1)
    compute = _grouped if packing.on_cpu else _padded
    attended_THd = compute(query_THd, key_THd, value_THd, packing, scale, dropout, window)
    return attended_THd.unsqueeze(0), None


def _padded(
    query_THd: Tensor,
    key_THd: Tensor,
    value_THd: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: tuple[int, int],
) -> Tensor:
    """Pad the sequences for torch's fused attention only; all other layers stay packed."""
    query, key, value = (packing.pad(states).transpose(1, 2) for states in (query_THd, key_THd, value_THd))
    mask = packing.mask()[:, None, None, :]
    in_window = window_mask(packing.longest, window, query_THd.device)
    if in_window is not None:
        # Padding would attend to nothing, which makes NaN: it attends to itself.
        mask = (mask & in_window) | torch.eye(packing.longest, dtype=torch.bool, device=query_THd.device)
    attended = nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    return packing.unpad(attended.transpose(1, 2))


def _grouped(
    query_THd: Tensor,
    key_THd: Tensor,
    value_THd: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: tuple[int, int],
) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        if not (torch.is_grad_enabled() or dropout):
            return attend_without_grad(torch.stack([query_THd, key_THd, value_THd], 1), packing, scale, window)
        attention = GroupAttention.of(packing, query_THd.shape[1], scale, dropout, window)
        attended: Tensor = _GroupedAttention.apply(query_THd, key_THd, value_THd, attention)  # type: ignore[no-untyped-call]
    return attended


class _GroupedAttention(torch.autograd.Function):
    """`GroupAttention` over separate queries, keys and values, `(T, H, d)` each."""

    @staticmethod
    def forward(ctx: Any, query_THd: Tensor, key_THd: Tensor, value_THd: Tensor, attention: GroupAttention) -> Tensor:
        out_THd, saved = attention.forward(_make_take(query_THd, key_THd, value_THd), query_THd)
        ctx.save_for_backward(query_THd, key_THd, value_THd, out_THd, *saved.tensors)
        ctx.attention, ctx.saved = attention, saved.without_tensors()
        return out_THd

    @staticmethod
    def backward(ctx: Any, gradient_THd: Tensor) -> tuple[Tensor | None, ...]:
        query_THd, key_THd, value_THd, out_THd, *tensors = ctx.saved_tensors
        gradients = [torch.empty_like(out_THd) for _ in range(3)]

        def put(group: Group, padded_3btd: Tensor) -> None:
            index = group.scatter_index(out_THd.shape[1])
            for each_THd, padded_btd in zip(gradients, padded_3btd, strict=True):
                put_rows(each_THd, group, padded_btd, index)

        take = _make_take(query_THd, key_THd, value_THd)
        ctx.attention.backward(take, put, gradient_THd, out_THd, ctx.saved.with_tensors(tensors))
        for each_THd in gradients:
            each_THd[ctx.attention.tokens :] = 0
        return *gradients, None


def _make_take(*states: Tensor) -> Callable[[Group], list[Tensor]]:
    """Return a function that returns the padded heads `(n * H, t, d)` of a group, for each of these `(T, H, d)`."""
    heads, width = states[0].shape[1:]

    def take(group: Group) -> list[Tensor]:
        index = group.gather_index(heads)
        return [each.reshape(-1, width).index_select(0, index).view(-1, group.longest, width) for each in states]

    return take
