"""Attention over packed sequences: texts one after the other in one row, each attending to itself alone.

Nothing is padded, so nothing is computed for padding, in attention or in any other layer. Registered with transformers,
whose models then run on a row of tokens as they are.

Shapes: T tokens of all sequences in a row, n sequences, t the longest, H heads, b = n * H, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.models.dropout import keep_, keep_mask
from finetune.models.packing import Group, Packing, hidden

NAME = "finetune_packed"

# On a CPU a group of sequences costs as much as so many weights more, and is slow when its weights outgrow the cache.
_GROUP_COST = 100_000
_MOST_WEIGHTS = 1_500_000


def register() -> None:
    """Make the attention known to transformers as `NAME`.

    There is no mask function of that name on purpose: transformers then makes no masks, and the packing says it all.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def register_uncompiled() -> None:
    """Have torch compile what is around attention, and leave attention as it is: its shapes change with each text."""
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
    **others: Any,
) -> tuple[Tensor, None]:
    """Return `(1, T, H, d)` of queries `(1, H, T, d)`; keys and values may have fewer heads.

    Raises:
        NotImplementedError: the model wants something of attention that this one does not do.
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias", "cache") if others.get(name) is not None]
    if attention_mask is not None or unknown:
        raise NotImplementedError(f"packed attention with {unknown or 'a mask'}")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    side = -1 if sliding_window is None else sliding_window - 1  # -1: as far as there is
    window = (side, 0 if causal else side)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THd, key_THd, value_THd = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    if _has_varlen(query_THd, dropout):
        from torch.nn.attention.varlen import varlen_attn

        # Only a bound, and few different ones: where torch compiles, each would be compiled anew.
        longest = 1 << (packing.longest - 1).bit_length()
        attended = varlen_attn(
            query_THd,
            key_THd,
            value_THd,
            packing.bounds,
            packing.bounds,
            longest,
            longest,
            scale=scale,
            window_size=window,
            enable_gqa=key_THd.shape[1] != query_THd.shape[1],
        )
        return cast(Tensor, attended).unsqueeze(0), None
    repeats = query_THd.shape[1] // key_THd.shape[1]
    if repeats > 1:
        key_THd, value_THd = (states.repeat_interleave(repeats, 1) for states in (key_THd, value_THd))
    attend = _by_groups if query_THd.device.type == "cpu" else _padded
    attended = attend(query_THd, key_THd, value_THd, packing, scale, dropout, window)
    return attended.unsqueeze(0), None


def _has_varlen(query: Tensor, dropout: float) -> bool:
    # torch's variable-length attention is a flash kernel: half precision, from Ampere on, without dropout.
    if query.device.type != "cuda" or dropout or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0) and query.shape[-1] <= 256


def _allowed(length: int, window: tuple[int, int], device: torch.device) -> Tensor | None:
    """Return which of `length` keys (columns) a query (rows) may see, `None` for all of them."""
    left, right = (length if side < 0 else side for side in window)
    if left >= length - 1 and right >= length - 1:
        return None
    distance = torch.arange(length, device=device)
    distance = distance.unsqueeze(0) - distance.unsqueeze(1)  # key minus query
    return (distance >= -left) & (distance <= right)


def _padded(
    query_THd: Tensor,
    key_THd: Tensor,
    value_THd: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: tuple[int, int],
) -> Tensor:
    """Pad the sequences for torch's fused attention, and for it alone: all other layers stay packed."""
    query, key, value = (packing.pad(states).transpose(1, 2) for states in (query_THd, key_THd, value_THd))
    mask = packing.mask()[:, None, None, :]
    allowed = _allowed(packing.longest, window, query_THd.device)
    if allowed is not None:
        # A row of padding would see nothing and be no number: let it see itself.
        mask = (mask & allowed) | torch.eye(packing.longest, dtype=torch.bool, device=query_THd.device)
    attended = nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    return packing.unpad(attended.transpose(1, 2))


def _by_groups(
    query_THd: Tensor,
    key_THd: Tensor,
    value_THd: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: tuple[int, int],
) -> Tensor:
    heads = query_THd.shape[1]
    groups = packing.groups(_GROUP_COST // heads, _MOST_WEIGHTS // heads)
    with torch.autocast("cpu", enabled=False):
        attended: Tensor = _ByGroups.apply(  # type: ignore[no-untyped-call]
            query_THd, key_THd, value_THd, groups, scale, dropout, window
        )
    return attended


class _ByGroups(torch.autograd.Function):
    """Attention in groups of like length, with few passes over the `(t, t)` weights: these are what costs on a CPU.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; the gradient of the softmax through the output, as in
    Dao et al. 2022, https://arxiv.org/abs/2205.14135, appendix B.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_THd: Tensor,
        key_THd: Tensor,
        value_THd: Tensor,
        groups: Sequence[Group],
        scale: float,
        dropout: float,
        window: tuple[int, int],
    ) -> Tensor:
        out_THd = torch.empty(query_THd.shape, dtype=query_THd.dtype)
        weights, masks, scales = [], [], []
        for group in groups:
            query, key, value = (_heads(group.take(states)) for states in (query_THd, key_THd, value_THd))
            logits_btt = torch.bmm(query * scale, key.transpose(1, 2))
            _hide(logits_btt, group, window)
            weight_btt = torch.softmax(logits_btt, -1, out=logits_btt)
            weights.append(weight_btt)
            if dropout:
                mask, kept_scale = keep_mask(weight_btt.shape, dropout)
                attended = torch.bmm(keep_(weight_btt.clone(), mask), value).mul_(kept_scale)
                masks.append(mask)
                scales.append(kept_scale)
            else:
                attended = torch.bmm(weight_btt, value)
            group.put(_sequences(attended, group), out_THd)
        ctx.save_for_backward(query_THd, key_THd, value_THd, out_THd, *weights, *masks)
        ctx.groups, ctx.scale, ctx.scales = groups, scale, scales
        return out_THd

    @staticmethod
    def backward(ctx: Any, gradient_THd: Tensor) -> tuple[Tensor | None, ...]:
        query_THd, key_THd, value_THd, out_THd, *saved = ctx.saved_tensors
        weights, masks = saved[: len(ctx.groups)], saved[len(ctx.groups) :]
        grad_query, grad_key, grad_value = (torch.empty_like(out_THd) for _ in range(3))
        # The softmax's gradient needs sum(weight * its gradient) of each row: that is sum(out * gradient).
        inner_TH1 = (gradient_THd * out_THd).sum(-1, keepdim=True)
        for i, group in enumerate(ctx.groups):
            query, key, value = (_heads(group.take(states)) for states in (query_THd, key_THd, value_THd))
            # Zero where a query is padding: nothing comes back from there.
            gradient, inner = (_heads(group.take(states, padding=0.0)) for states in (gradient_THd, inner_TH1))
            weight_btt, used_btt = weights[i], weights[i]
            if masks:
                gradient = gradient * ctx.scales[i]
                used_btt = keep_(weight_btt.clone(), masks[i])
            group.put(_sequences(torch.bmm(used_btt.transpose(1, 2), gradient), group), grad_value)
            grad_btt = torch.bmm(gradient, value.transpose(1, 2))
            grad_btt.mul_(used_btt).addcmul_(weight_btt, inner, value=-1)
            group.put(_sequences(torch.bmm(grad_btt, key).mul_(ctx.scale), group), grad_query)
            group.put(_sequences(torch.bmm(grad_btt.transpose(1, 2), query).mul_(ctx.scale), group), grad_key)
        return grad_query, grad_key, grad_value, None, None, None, None


def _heads(states_ntHd: Tensor) -> Tensor:
    """Return `(n, t, H, d)` as `(n * H, t, d)`, which a batched matrix product takes."""
    return states_ntHd.transpose(1, 2).flatten(0, 1).contiguous()


def _sequences(states_btd: Tensor, group: Group) -> Tensor:
    """Return `(n * H, t, d)` as `(n, t, H, d)`."""
    return states_btd.view(len(group.lengths), -1, *states_btd.shape[1:]).transpose(1, 2)


def _hide(logits_btt: Tensor, group: Group, window: tuple[int, int]) -> None:
    """Hide, in place, the keys that a query may not see."""
    bias = group.bias(logits_btt.dtype)
    if bias is not None:
        logits_btt.view(len(group.lengths), -1, *logits_btt.shape[1:]).add_(bias)
    allowed = _allowed(group.longest, window, logits_btt.device)
    if allowed is not None:
        logits_btt.masked_fill_(~allowed, hidden(logits_btt.dtype))
