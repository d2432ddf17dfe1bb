"""Attention over packed sequences: texts one after the other in one row, each attending to itself alone.

Nothing is padded, so nothing is computed for padding, in attention or in any other layer. Registered with transformers,
whose models then run on a row of tokens as they are.

Shapes: T tokens of all sequences in a row, n sequences of one length t, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.models.dropout import keep_, keep_mask
from finetune.models.packing import Packing, Run

NAME = "finetune_packed"


def register() -> None:
    """Make the attention known to transformers as `NAME`.

    There is no mask function of that name on purpose: transformers then makes no masks, and the packing says it all.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


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

        attended = varlen_attn(
            query_THd,
            key_THd,
            value_THd,
            packing.bounds,
            packing.bounds,
            packing.longest,
            packing.longest,
            scale=scale,
            window_size=window,
            enable_gqa=key_THd.shape[1] != query_THd.shape[1],
        )
        return cast(Tensor, attended).unsqueeze(0), None
    repeats = query_THd.shape[1] // key_THd.shape[1]
    if repeats > 1:
        key_THd, value_THd = (states.repeat_interleave(repeats, 1) for states in (key_THd, value_THd))
    attend = _by_runs if query_THd.device.type == "cpu" else _padded
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


def _by_runs(
    query_THd: Tensor,
    key_THd: Tensor,
    value_THd: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: tuple[int, int],
) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        attended: Tensor = _ByRuns.apply(query_THd, key_THd, value_THd, packing.runs, scale, dropout, window)  # type: ignore[no-untyped-call]
    return attended


class _ByRuns(torch.autograd.Function):
    """Attention run by run of equal lengths: no mask, and passes over the `(t, t)` weights counted one by one.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; the gradient of the softmax through the output, as in
    Dao et al. 2022, https://arxiv.org/abs/2205.14135, appendix B.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_THd: Tensor,
        key_THd: Tensor,
        value_THd: Tensor,
        runs: Sequence[Run],
        scale: float,
        dropout: float,
        window: tuple[int, int],
    ) -> Tensor:
        out_THd = torch.empty(query_THd.shape, dtype=query_THd.dtype)
        weights, masks, scales = [], [], []
        for run in runs:
            query, key, value = (_heads(states, run) for states in (query_THd, key_THd, value_THd))
            logits_ntt = torch.bmm(query * scale, key.transpose(1, 2))
            allowed = _allowed(run.length, window, logits_ntt.device)
            if allowed is not None:
                logits_ntt.masked_fill_(~allowed, float("-inf"))
            weight_ntt = torch.softmax(logits_ntt, -1, out=logits_ntt)
            weights.append(weight_ntt)
            if dropout:
                mask, kept_scale = keep_mask(weight_ntt.shape, dropout)
                attended = torch.bmm(keep_(weight_ntt.clone(), mask), value).mul_(kept_scale)
                masks.append(mask)
                scales.append(kept_scale)
            else:
                attended = torch.bmm(weight_ntt, value)
            _put(out_THd, run, attended)
        ctx.save_for_backward(query_THd, key_THd, value_THd, out_THd, *weights, *masks)
        ctx.runs, ctx.scale, ctx.scales = runs, scale, scales
        return out_THd

    @staticmethod
    def backward(ctx: Any, gradient_THd: Tensor) -> tuple[Tensor | None, ...]:
        query_THd, key_THd, value_THd, out_THd, *saved = ctx.saved_tensors
        weights, masks = saved[: len(ctx.runs)], saved[len(ctx.runs) :]
        grad_query, grad_key, grad_value = (torch.empty_like(out_THd) for _ in range(3))
        # The softmax's gradient needs sum(weight * its gradient) of each row: that is sum(out * gradient).
        inner_TH1 = (gradient_THd * out_THd).sum(-1, keepdim=True)
        for i, run in enumerate(ctx.runs):
            query, key, value = (_heads(states, run) for states in (query_THd, key_THd, value_THd))
            gradient, inner = _heads(gradient_THd, run), _heads(inner_TH1, run)
            weight_ntt, used_ntt = weights[i], weights[i]
            if masks:
                gradient = gradient * ctx.scales[i]
                used_ntt = keep_(weight_ntt.clone(), masks[i])
            _put(grad_value, run, torch.bmm(used_ntt.transpose(1, 2), gradient))
            grad_ntt = torch.bmm(gradient, value.transpose(1, 2))
            if masks:
                keep_(grad_ntt, masks[i])
            grad_ntt.sub_(inner).mul_(weight_ntt)
            _put(grad_query, run, torch.bmm(grad_ntt, key).mul_(ctx.scale))
            _put(grad_key, run, torch.bmm(grad_ntt.transpose(1, 2), query).mul_(ctx.scale))
        return grad_query, grad_key, grad_value, None, None, None, None


def _heads(states_THd: Tensor, run: Run) -> Tensor:
    """Return the run's states as `(n * H, t, d)`."""
    _, heads, width = states_THd.shape
    states_nHtd = states_THd[run.tokens].view(run.count, run.length, heads, width).transpose(1, 2)
    return states_nHtd.reshape(run.count * heads, run.length, width)


def _put(out_THd: Tensor, run: Run, states: Tensor) -> None:
    """Write the run's `(n * H, t, d)` back into the row."""
    _, heads, width = out_THd.shape
    states_nHtd = states.view(run.count, heads, run.length, width)
    out_THd[run.tokens].view(run.count, run.length, heads, width).copy_(states_nHtd.transpose(1, 2))
