"""Attention on a CPU without gradients, which keeps nothing for a backward pass.

It is torch's fused attention, which never writes the `(t, t)` weights to memory, over views of the queries, keys and
values. In bf16 that takes twice as long as two matrix products and a softmax (`group_attention.py`).

Shapes: T tokens of all sequences in a row (possibly followed by rows of padding), n sequences of a group, t the longest
of them, H heads, d width of a head, P parts of a token's row: query, key and value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.models.group_attention import lowest_of, window_mask
from finetune.models.packing import Group, Packing

# The overhead of a group in attention weights of all heads. There is no limit of a group: nothing of its size is made.
_GROUP_COST = 50_000
_NO_LIMIT = 1 << 40


def attend(parts_TPHd: Tensor, packing: Packing, scale: float, window: tuple[int, int] = (-1, -1)) -> Tensor:
    """Return the output `(T, H, d)` of attention within each sequence; rows of padding are 0.

    A token attends `window` tokens to the left and right, -1 without limit.
    """
    rows, _, heads, width = parts_TPHd.shape
    out_THd = parts_TPHd.new_empty(rows, heads, width)
    for group in packing.groups(_GROUP_COST // heads, _NO_LIMIT):
        own = slice(group.start, group.start + group.tokens)
        query, key, value = _padded_heads(parts_TPHd[own], group)
        mask = _mask(group, window, query.dtype)
        attended_nHtd = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
        attended_Rhd = attended_nHtd.transpose(1, 2).reshape(-1, heads * width)
        if group.padding_nt is None:
            out_THd[own] = attended_Rhd.view(-1, heads, width)
        else:
            torch.index_select(attended_Rhd, 0, group.token_rows, out=out_THd[own].view(-1, heads * width))
    out_THd[int(packing.lengths.sum()) :] = 0
    return out_THd


def _padded_heads(parts_RPHd: Tensor, group: Group) -> Sequence[Tensor]:
    """Return padded queries, keys and values `(n, H, t, d)`: views if there is nothing to pad."""
    shape = (len(group.lengths), group.longest, *parts_RPHd.shape[1:])
    if group.padding_nt is not None:
        parts_RPHd = parts_RPHd.flatten(1).index_select(0, group.padded_rows)
    return parts_RPHd.view(shape).permute(2, 0, 3, 1, 4).unbind()


def _mask(group: Group, window: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """Return what is added to the logits, `(n, 1, 1 or t, t)`, None for nothing."""
    lowest = lowest_of(dtype)
    window_tt = window_mask(group.longest, window, torch.device("cpu"))
    mask = None
    if group.padding_nt is not None:
        mask = group.padding_nt.to(dtype).mul_(lowest)[:, None, None, :]
    if window_tt is not None:
        outside_tt = (~window_tt).to(dtype).mul_(lowest)
        mask = outside_tt[None, None] if mask is None else mask + outside_tt
    return mask
