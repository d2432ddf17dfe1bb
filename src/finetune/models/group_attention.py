"""Attention on a CPU over groups of sequences of similar length, with a handwritten backward pass.

On a CPU the passes over the `(t, t)` weights dominate, so there are few of them; one `index_select` each moves data
between the packed row of tokens and the padded heads.

Shapes: T tokens of all sequences in a row (possibly followed by rows of padding), n sequences of a group,
t the longest of them, H heads, b = n * H, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from finetune.models.dropout import keep_, keep_mask
from finetune.models.packing import Group, Packing

# The overhead of a group in attention weights; and the number of weights above which a group is slow, because they do
# not fit into the cache.
GROUP_COST = 100_000
MAX_WEIGHTS = 1_500_000

Take = Callable[[Group], Sequence[Tensor]]
Put = Callable[[Group, Tensor], None]


@dataclass(frozen=True)
class Saved:
    """What the backward pass needs of each group: weights and, with dropout, a mask and the scale of kept weights."""

    weights: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, for `save_for_backward`."""
        return [*self.weights, *self.masks]

    def without_tensors(self) -> Saved:
        """Return the rest, which can be stored as an attribute."""
        return Saved([], [], self.scales)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Saved:
        """Return a copy with the tensors that `save_for_backward` kept."""
        groups = len(tensors) // 2 if self.scales else len(tensors)
        return replace(self, weights=list(tensors[:groups]), masks=list(tensors[groups:]))


@dataclass(frozen=True)
class GroupAttention:
    """Attention within each sequence; a token attends `window` tokens to the left and right, -1 without limit.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; the gradient of the softmax through the output, as in
    Dao et al. 2022, https://arxiv.org/abs/2205.14135, appendix B.
    """

    groups: Sequence[Group]
    tokens: int
    heads: int
    scale: float
    dropout: float
    window: tuple[int, int]

    @classmethod
    def of(cls, packing: Packing, heads: int, scale: float, dropout: float, window: tuple[int, int]) -> GroupAttention:
        """Return the attention over the sequences of a packing, in the cheapest groups."""
        groups = packing.groups(GROUP_COST // heads, MAX_WEIGHTS // heads)
        return cls(groups, int(packing.lengths.sum()), heads, scale, dropout, window)

    def forward(self, take: Take, like_THd: Tensor) -> tuple[Tensor, Saved]:
        """Return the output of attention, with the shape and dtype of `like_THd`, and what `backward` needs.

        `take` returns the padded queries, keys and values of a group, `(b, t, d)` each. Rows of padding are 0.
        """
        out_THd = torch.empty(like_THd.shape, dtype=like_THd.dtype)
        saved = Saved()
        for group in self.groups:
            query, key, value = take(group)
            logits_btt = torch.bmm(query * self.scale, key.transpose(1, 2))
            _mask_(logits_btt, group, self.window)
            weight_btt = torch.softmax(logits_btt, -1, out=logits_btt)
            saved.weights.append(weight_btt)
            if self.dropout:
                mask, kept_scale = keep_mask(weight_btt.shape, self.dropout)
                attended_btd = torch.bmm(keep_(weight_btt.clone(), mask), value).mul_(kept_scale)
                saved.masks.append(mask)
                saved.scales.append(kept_scale)
            else:
                attended_btd = torch.bmm(weight_btt, value)
            put_rows(out_THd, group, attended_btd, group.scatter_index(self.heads))
        out_THd[self.tokens :] = 0
        return out_THd, saved

    def backward(self, take: Take, put: Put, gradient_THd: Tensor, out_THd: Tensor, saved: Saved) -> None:
        """Call `put` with the gradients of each group's queries, keys and values, `(3, b, t, d)`."""
        heads, width = out_THd.shape[1:]
        # The gradient of the softmax needs sum(weight * its gradient) of each row, which equals sum(out * gradient).
        inner_R1 = (gradient_THd * out_THd).sum(-1).view(-1, 1)
        gradient_Rd = gradient_THd.reshape(-1, width)
        for i, group in enumerate(self.groups):
            query, key, value = take(group)
            index = group.gather_index(heads)
            gradient = gradient_Rd.index_select(0, index).view(query.shape)
            inner = inner_R1.index_select(0, index).view(-1, group.longest, 1)
            if group.padding_nt is not None:
                # Queries of padding have no gradient.
                padding_n1t1 = group.padding_nt[:, None, :, None]
                for each in (gradient, inner):
                    each.view(len(group.lengths), heads, group.longest, -1).masked_fill_(padding_n1t1, 0)
            weight_btt = used_btt = saved.weights[i]
            if saved.masks:
                gradient.mul_(saved.scales[i])
                used_btt = keep_(weight_btt.clone(), saved.masks[i])
            result_3btd = query.new_empty(3, *query.shape)
            grad_query, grad_key, grad_value = result_3btd
            torch.bmm(used_btt.transpose(1, 2), gradient, out=grad_value)
            grad_btt = torch.bmm(gradient, value.transpose(1, 2))
            grad_btt.mul_(used_btt).addcmul_(weight_btt, inner, value=-1)
            torch.bmm(grad_btt, key, out=grad_query).mul_(self.scale)
            torch.bmm(grad_btt.transpose(1, 2), query, out=grad_key).mul_(self.scale)
            put(group, result_3btd)


def put_rows(row_THd: Tensor, group: Group, padded_btd: Tensor, index: Tensor) -> None:
    """Write padded heads, of one part `(b, t, d)` or several, to the tokens of a group in a row `(T, ..., d)`."""
    width = row_THd.shape[-1]
    part = row_THd[group.start : group.start + group.tokens].view(-1, width)
    torch.index_select(padded_btd.reshape(-1, width), 0, index, out=part)


def window_mask(length: int, window: tuple[int, int], device: torch.device) -> Tensor | None:
    """Return to which of `length` keys (columns) a query (rows) may attend, `None` if to all of them."""
    left = window[0] if window[0] >= 0 else length
    right = window[1] if window[1] >= 0 else length
    if left >= length - 1 and right >= length - 1:
        return None
    distance = torch.arange(length, device=device)
    distance = distance.unsqueeze(0) - distance.unsqueeze(1)  # key minus query
    return (distance >= -left) & (distance <= right)


def _mask_(logits_btt: Tensor, group: Group, window: tuple[int, int]) -> None:
    """Mask, in place, padding and the keys outside of the window."""
    # Zero after the softmax, without NaN where all keys are masked.
    lowest = torch.finfo(logits_btt.dtype).min / 2
    if group.padding_nt is not None:
        bias_nt = group.padding_nt.to(logits_btt.dtype).mul_(lowest)
        logits_btt.view(len(group.lengths), -1, *logits_btt.shape[1:]).add_(bias_nt[:, None, None, :])
    window_tt = window_mask(group.longest, window, logits_btt.device)
    if window_tt is not None:
        logits_btt.masked_fill_(~window_tt, lowest)
