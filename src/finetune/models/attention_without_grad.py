"""Attention on a CPU without gradients, which keeps nothing for a backward pass.

It is torch's fused attention, which never writes the `(t, t)` weights to memory, over views of the queries, keys and
values. In bf16 that takes twice as long as two matrix products and a softmax, which are used there.

Shapes: T tokens of all sequences in a row (possibly followed by rows of padding), n sequences of a group, t the longest
of them, R the tokens of a group, H heads, b = n * H, d width of a head, P parts of a token's row: query, key and value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.models.group_attention import GROUP_COST, MAX_WEIGHTS, put_rows, window_mask
from finetune.models.packing import Group, Packing

# The overhead of a group of fused attention in attention weights of all heads; it makes no weights to limit.
_FUSED_GROUP_COST, _NO_LIMIT = 50_000, 1 << 40


def attend(parts_TPHd: Tensor, packing: Packing, scale: float, window: tuple[int, int] = (-1, -1)) -> Tensor:
    """Return the output `(T, H, d)` of attention within each sequence; rows of padding are 0.

    The queries, keys and values are contiguous. A token attends `window` tokens to the left and right, -1 without
    limit.
    """
    rows, _, heads, width = parts_TPHd.shape
    out_THd = parts_TPHd.new_empty(rows, heads, width)
    if parts_TPHd.dtype == torch.bfloat16:
        attend_group, cost, limit = _attend_by_products, GROUP_COST, MAX_WEIGHTS
    else:
        attend_group, cost, limit = _attend_fused, _FUSED_GROUP_COST, _NO_LIMIT
    for group in packing.groups(cost // heads, limit // heads):
        attend_group(parts_TPHd, group, _mask(group, window, parts_TPHd.dtype), scale, out_THd)
    out_THd[int(packing.lengths.sum()) :] = 0
    return out_THd


def _attend_fused(parts_TPHd: Tensor, group: Group, mask: Tensor | None, scale: float, out_THd: Tensor) -> None:
    """Write the output of a group into `out_THd`, by torch's fused attention."""
    own = slice(group.start, group.start + group.tokens)
    parts_RD = parts_TPHd[own].flatten(1)
    if group.padding_nt is not None:
        parts_RD = parts_RD.index_select(0, group.padded_rows)
    parts_ntPHd = parts_RD.view(len(group.lengths), group.longest, *parts_TPHd.shape[1:])
    query, key, value = parts_ntPHd.permute(2, 0, 3, 1, 4).unbind()
    attended_nHtd = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    attended_RD = attended_nHtd.transpose(1, 2).flatten(2).flatten(0, 1)
    if group.padding_nt is None:
        out_THd[own] = attended_RD.view_as(out_THd[own])
    else:
        torch.index_select(attended_RD, 0, group.token_rows, out=out_THd[own].view(group.tokens, -1))


def _attend_by_products(parts_TPHd: Tensor, group: Group, mask: Tensor | None, scale: float, out_THd: Tensor) -> None:
    """Write the output of a group into `out_THd`, by two matrix products and a softmax."""
    _, parts, heads, width = parts_TPHd.shape
    padded = parts_TPHd.view(-1, width).index_select(0, group.gather_index(heads, parts))
    query_btd, key_btd, value_btd = padded.view(parts, -1, group.longest, width).unbind()
    if mask is None:
        logits_btt = torch.bmm(query_btd * scale, key_btd.transpose(1, 2))
    else:
        mask_btt = mask.expand(len(group.lengths), heads, group.longest, -1).flatten(0, 1)
        logits_btt = torch.baddbmm(mask_btt, query_btd, key_btd.transpose(1, 2), alpha=scale)
    weight_btt = torch.softmax(logits_btt, -1, out=logits_btt)
    put_rows(out_THd, group, torch.bmm(weight_btt, value_btd), group.scatter_index(heads))


def _mask(group: Group, window: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """Return what is added to the logits, `(n or 1, 1, t or 1, t)`, None for nothing."""
    lowest = torch.finfo(dtype).min / 2  # zero after the softmax, without NaN where all keys are masked
    window_tt = window_mask(group.longest, window, torch.device("cpu"))
    mask = None
    if group.padding_nt is not None:
        mask = group.padding_nt.to(dtype).mul_(lowest)[:, None, None, :]
    if window_tt is not None:
        outside_tt = (~window_tt).to(dtype).mul_(lowest)
        mask = outside_tt[None, None] if mask is None else mask + outside_tt
    return mask
