"""The token embeddings of one step, looked up by many micro-batches, with one gradient for all of them.

Shapes: T tokens, V rows of the table, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Lookup:
    """Looks tokens up in an embedding table; make one for each step.

    Autograd gives every lookup a gradient of the whole table, zero but for a few rows: 90 MB to write and to add up for
    each micro-batch of MiniLM. Here the lookups of a step add their rows to one gradient, which the table gets at the
    end of the backward pass.
    """

    def __init__(self, table: nn.Module) -> None:
        self._table = table
        self._gradient = _Gradient()
        self._shared: Tensor | None = None
        # What is more than a table (scaled, adapted, hooked) is called as it is; a GPU writes zeros for almost nothing.
        plain = type(table) is nn.Embedding and table.max_norm is None and not table._forward_hooks
        plain = plain and type(table.weight) is nn.Parameter  # no part of one that several processes share
        if plain and table.weight.device.type == "cpu" and table.weight.requires_grad and torch.is_grad_enabled():
            self._shared = _Share.apply(  # type: ignore[no-untyped-call]
                table.weight, self._gradient, table.padding_idx
            )

    def __call__(self, ids_T: Tensor) -> Tensor:
        """Return the embeddings `(T, D)` of token ids `(T,)`."""
        if self._shared is None:
            found: Tensor = self._table(ids_T)
        else:
            found = _Rows.apply(self._shared, ids_T, self._gradient)  # type: ignore[no-untyped-call]
        return found


class _Gradient:
    """The gradient that all lookups add to."""

    def __init__(self) -> None:
        self.sum_VD: Tensor | None = None


class _Share(torch.autograd.Function):
    """Stands between the table and its lookups: its backward runs when all of theirs have."""

    @staticmethod
    def forward(ctx: Any, weight_VD: Tensor, gradient: _Gradient, padding_idx: int | None) -> Tensor:
        ctx.gradient, ctx.padding_idx = gradient, padding_idx
        ctx.set_materialize_grads(False)
        return weight_VD.view_as(weight_VD)

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, None, None]:
        sum_VD, ctx.gradient.sum_VD = ctx.gradient.sum_VD, None
        if sum_VD is not None and ctx.padding_idx is not None:
            sum_VD[ctx.padding_idx] = 0  # as in nn.Embedding
        return sum_VD, None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared_VD: Tensor, ids_T: Tensor, gradient: _Gradient) -> Tensor:
        ctx.gradient, ctx.rows = gradient, shared_VD.shape
        ctx.save_for_backward(ids_T)
        return shared_VD[ids_T]

    @staticmethod
    def backward(ctx: Any, gradient_TD: Tensor) -> tuple[None, None, None]:
        (ids_T,) = ctx.saved_tensors
        if ctx.gradient.sum_VD is None:
            ctx.gradient.sum_VD = gradient_TD.new_zeros(ctx.rows)
        ctx.gradient.sum_VD.index_add_(0, ids_T, gradient_TD)
        return None, None, None
