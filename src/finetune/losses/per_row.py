"""Losses that are a mean over rows, in chunks and shared over processes.

Shapes: N distinct items of the batch, B relations, R rows, b of them in one chunk, D width, M whatever rows look into.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.data.batching.batch import Batch
from finetune.losses.loss import SharedLoss

# Entries of one (b, N) matrix of a chunk, of which a loss has a few at a time: 64 MB in fp32.
_MOST_ENTRIES = 2**24

_PerRow = Callable[[Tensor, Batch, slice], Tensor]


class RowLoss(SharedLoss):
    """A mean of what each row loses, weighted where the batch has weights; a row is a relation unless said otherwise.

    A subclass says `per_row`; chunks and shares follow from it. A loss that cannot be told row by row is a plain `Loss`
    of `(emb_ND, batch)`, and every process computes the whole of it.
    """

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows, `(b,)`."""
        raise NotImplementedError

    def rows(self, batch: Batch) -> int:
        """Return R, the number of rows."""
        return len(batch)

    def weights(self, batch: Batch) -> Tensor | None:
        """Return how much each row counts, `(R,)`; `None` if all count the same."""
        return batch.weight_B

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the denominator of the mean over rows."""
        weight_R = self.weights(batch)
        return self.rows(batch) if weight_R is None else weight_R.sum()

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the share that process `rank` of `world` has in the mean over the batch: the shares' sum is the mean.

        Each process has about as many rows as the others. Where their matrix is large it is computed in chunks of rows,
        once here and again for the gradient, and is never there as a whole.
        """
        return self._shared_mean(self.per_row, emb_ND, batch, rank, world)

    def _shared_mean(self, per_row: _PerRow, values_M: Tensor, batch: Batch, rank: int, world: int) -> Tensor:
        """Return a share of the mean of what `per_row` of these values says that each row loses."""
        count, weight_R = self.rows(batch), self.weights(batch)
        first, last = (count * part // world for part in (rank, rank + 1))
        size = max(1, _MOST_ENTRIES // len(values_M))
        chunks = [slice(low, min(low + size, last)) for low in range(first, last, size)]
        if len(chunks) == 1:
            total = _sum(per_row, values_M, batch, weight_R, chunks[0])
        else:
            # Without rows the sum still hangs on the values: other processes wait for this one's backward pass.
            total = 0 * values_M.sum()
            for rows in chunks:
                part = checkpoint(_sum, per_row, values_M, batch, weight_R, rows, use_reentrant=False)
                total = total + cast(Tensor, part)
        return total / (count if weight_R is None else weight_R.sum().clamp(min=1e-12))


def _sum(per_row: _PerRow, values_M: Tensor, batch: Batch, weight_R: Tensor | None, rows: slice) -> Tensor:
    loss_b = per_row(values_M, batch, rows)
    return loss_b.sum() if weight_R is None else (loss_b * weight_R[rows]).sum()
