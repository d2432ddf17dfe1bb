"""State shared by the micro-batches of one step: one gradient of the token table, and weights that are cast once.

Shapes: T tokens, V rows of the table, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

# One gradient buffer per table, 47 MB for MiniLM, because new memory pages in every step are slow; and the gradient
# that used it last.
_BUFFERS: WeakKeyDictionary[nn.Module, tuple[Tensor, ref[_Gradient]]] = WeakKeyDictionary()


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, so that calling it does more than its `forward`."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


class SharedGradEmbedding:
    """Looks up tokens in an embedding table, and caches prepared weights; create one for each step.

    Autograd makes a gradient of the whole table for every lookup, with zeros in most rows: 47 MB to write and to add
    for each micro-batch of MiniLM. Here the lookups of a step add their rows to one gradient, which becomes that of the
    table at the end of the backward pass.
    """

    def __init__(self, table: nn.Module) -> None:
        self._table = table
        self._gradient = _Gradient(table)
        self._shared: Tensor | None = None
        self._prepared: dict[object, tuple[Tensor, ...]] = {}
        self.storages: set[int] = set()  # addresses of prepared weights, which are not activations of a micro-batch
        if _is_plain(table) and table.weight.requires_grad and torch.is_grad_enabled():
            self._shared = _Share.apply(  # type: ignore[no-untyped-call]
                table.weight, self._gradient, table.padding_idx
            )

    def __call__(self, ids_T: Tensor) -> Tensor:
        """Return the embeddings `(T, D)` of token ids `(T,)`."""
        if self._shared is None:
            rows_TD: Tensor = self._table(ids_T)
        else:
            rows_TD = _Rows.apply(self._shared, ids_T, self._gradient)  # type: ignore[no-untyped-call]
        return rows_TD

    def prepare_once(self, owner: object, prepare: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return the result of `prepare` for the weights of `owner`, which is called once per step.

        The tensors are part of the graph: the gradients of all micro-batches are summed before they are cast and split.
        """
        if owner not in self._prepared:
            self._prepared[owner] = prepare()
            self.storages |= {tensor.untyped_storage().data_ptr() for tensor in self._prepared[owner]}
        return self._prepared[owner]


def _is_plain(table: nn.Module) -> TypeGuard[nn.Embedding]:
    """Whether a module is a plain table on a CPU: not scaled, adapted, hooked or sharded over processes.

    On a GPU the zeros cost almost nothing.
    """
    if type(table) is not nn.Embedding or table.max_norm is not None or has_hooks(table):
        return False
    return type(table.weight) is nn.Parameter and table.weight.device.type == "cpu"


class _Gradient:
    """The gradient to which all lookups of a step add."""

    def __init__(self, table: nn.Module) -> None:
        self._table = table
        self.sum_VD: Tensor | None = None

    def add(self, ids_T: Tensor, gradient_TD: Tensor) -> None:
        """Add the gradients of some rows."""
        if self.sum_VD is None:
            self.sum_VD = self._zeros(gradient_TD)
        self.sum_VD.index_add_(0, ids_T, gradient_TD)

    def _zeros(self, like_TD: Tensor) -> Tensor:
        weight: Any = self._table.weight
        if weight.grad is not None:
            return like_TD.new_zeros(weight.shape)  # gradient accumulation: the buffer is the gradient so far
        buffer, user = _BUFFERS.get(self._table, (None, None))
        if user is not None and user() is not None:
            return like_TD.new_zeros(weight.shape)  # another lookup of the same graph may still use the buffer
        if buffer is None or buffer.dtype != like_TD.dtype or buffer.shape != weight.shape:
            buffer = like_TD.new_empty(weight.shape)
        _BUFFERS[self._table] = buffer, ref(self)
        # Autograd takes over a tensor without other references; the buffer keeps the memory.
        return buffer.zero_().detach()


class _Share(torch.autograd.Function):
    """Between the table and its lookups: its backward runs after all of theirs."""

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
        ctx.gradient = gradient
        ctx.save_for_backward(ids_T)
        return shared_VD.index_select(0, ids_T)

    @staticmethod
    def backward(ctx: Any, gradient_TD: Tensor) -> tuple[None, None, None]:
        (ids_T,) = ctx.saved_tensors
        ctx.gradient.add(ids_T, gradient_TD)
        return None, None, None
