"""Losses that are a mean over rows, computed in chunks and shared by several processes.

Shapes: N distinct items of the batch, B relations, R rows, b of them in one chunk, D width, M rows of an input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.data.batching.batch import Batch
from finetune.losses.loss import SharedLoss

# The size of the (b, N) matrix of a chunk, of which a loss has a few at a time: 64 MB in fp32.
_MAX_ENTRIES = 2**24

_PerRow = Callable[[Tensor, Batch, slice], Tensor]


class RowLoss(SharedLoss):
    """A mean of the loss of each row, weighted if the batch has weights; a row is a relation by default.

    A subclass implements `per_row`, on which chunks and processes are based. A loss that is not a mean over rows is a
    plain `Loss` of `(emb_ND, batch)`, and every process computes all of it.
    """

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows, `(b,)`."""
        raise NotImplementedError

    def rows(self, batch: Batch) -> int:
        """Return R, the number of rows."""
        return len(batch)

    def weights(self, batch: Batch) -> Tensor | None:
        """Return the weight of each row, `(R,)`; `None` if all are equal."""
        return batch.weight_B

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the denominator of the mean over rows."""
        weight_R = self.weights(batch)
        if weight_R is None:
            return self.rows(batch)
        return weight_R.sum()

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the part of process `rank` of `world`; the sum over the processes is the mean over the batch.

        All processes have about the same number of rows. If their matrix is large, it is computed in chunks of rows,
        and recomputed for the gradient, so that it never exists as a whole.
        """
        return self._shared_mean(self.per_row, emb_ND, batch, rank, world)

    def _shared_mean(self, per_row: _PerRow, values_M: Tensor, batch: Batch, rank: int, world: int) -> Tensor:
        """Return the part of a process in the mean of the losses that `per_row` returns for these values."""
        count, weight_R = self.rows(batch), self.weights(batch)
        first, last = count * rank // world, count * (rank + 1) // world
        size = max(1, _MAX_ENTRIES // len(values_M))
        chunks = [slice(low, min(low + size, last)) for low in range(first, last, size)]
        if len(chunks) == 1:
            total = _sum(per_row, values_M, batch, weight_R, chunks[0])
        else:
            # A process without rows still needs a gradient: other processes wait for its backward pass.
            total = 0 * values_M.sum()
            for rows in chunks:
                part = checkpoint(_sum, per_row, values_M, batch, weight_R, rows, use_reentrant=False)
                total = total + cast(Tensor, part)
        if weight_R is None:
            return total / count
        return total / weight_R.sum().clamp(min=1e-12)


def _sum(per_row: _PerRow, values_M: Tensor, batch: Batch, weight_R: Tensor | None, rows: slice) -> Tensor:
    loss_b = per_row(values_M, batch, rows)
    if weight_R is None:
        return loss_b.sum()
    return (loss_b * weight_R[rows]).sum()
