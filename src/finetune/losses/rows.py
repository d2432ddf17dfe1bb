"""Losses that are a mean over rows, in chunks and shared over processes.

Shapes: N distinct items of the batch, B relations, R rows, b of them in one chunk, D width.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.data.batches import Batch
from finetune.losses.loss import SharedLoss

# Entries of one (b, N) matrix of a chunk, of which a loss has a few at a time: 64 MB in fp32.
_MOST_ENTRIES = 2**24


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

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the share that process `rank` of `world` has in the mean over the batch: the shares' sum is the mean.

        Each process has about as many rows as the others. Where their matrix is large it is computed in chunks of rows,
        once here and again for the gradient, and is never there as a whole.
        """
        count, weight_R = self.rows(batch), self.weights(batch)
        first, last = (count * part // world for part in (rank, rank + 1))
        size = max(1, _MOST_ENTRIES // len(emb_ND))
        chunks = [slice(low, min(low + size, last)) for low in range(first, last, size)]
        if len(chunks) == 1:
            total = self._sum(emb_ND, batch, weight_R, chunks[0])
        else:
            # Without rows the sum still hangs on the embeddings: other processes wait for this one's backward pass.
            total = 0 * emb_ND.sum()
            for rows in chunks:
                total = total + cast(Tensor, checkpoint(self._sum, emb_ND, batch, weight_R, rows, use_reentrant=False))
        return total / (count if weight_R is None else weight_R.sum().clamp(min=1e-12))

    def _sum(self, emb_ND: Tensor, batch: Batch, weight_R: Tensor | None, rows: slice) -> Tensor:
        loss_b = self.per_row(emb_ND, batch, rows)
        return loss_b.sum() if weight_R is None else (loss_b * weight_R[rows]).sum()
