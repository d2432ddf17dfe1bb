"""Losses that are a mean over the relations of a batch, in chunks and shared over processes.

Shapes: N distinct items of the batch, B relations, b of them in one chunk, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finetune.data.batches import Batch

# Entries of one (b, N) matrix of a chunk, of which a loss has a few at a time: 64 MB in fp32.
_MOST_ENTRIES = 2**24


class RowLoss(nn.Module):
    """A mean of what each relation loses, weighted where the batch has weights.

    A subclass says `per_row`; chunks and shares follow from it. A loss that cannot be told row by row is a plain module
    of `(emb_ND, batch)`, and every process computes the whole of it.
    """

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        raise NotImplementedError

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the share that process `rank` of `world` has in the mean over the batch: the shares' sum is the mean.

        Each process has about as many rows as the others. Where their matrix is large it is computed in chunks of rows,
        once here and again for the gradient, and is never there as a whole.
        """
        first, last = (len(batch) * part // world for part in (rank, rank + 1))
        size = max(1, _MOST_ENTRIES // len(emb_ND))
        chunks = [slice(low, min(low + size, last)) for low in range(first, last, size)]
        if len(chunks) == 1:
            total = self._sum(emb_ND, batch, chunks[0])
        else:
            # Without rows the sum still hangs on the embeddings: other processes wait for this one's backward pass.
            total = 0 * emb_ND.sum()
            for rows in chunks:
                total = total + cast(Tensor, checkpoint(self._sum, emb_ND, batch, rows, use_reentrant=False))
        if batch.weight_B is None:
            return total / len(batch)
        return total / batch.weight_B.sum().clamp(min=1e-12)

    def _sum(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        loss_b = self.per_row(emb_ND, batch, rows)
        return loss_b.sum() if batch.weight_B is None else (loss_b * batch.weight_B[rows]).sum()


def known_positives(batch: Batch, source_b: Tensor, n_items: int) -> Tensor:
    """Return which of the N items are known to be right for each of these items, `(b, N)` booleans.

    The batch lists them as pairs of items. All shapes are known beforehand, so that nothing waits for the device.
    """
    rows = len(source_b)
    # Where the pairs of an item are written: to one of the rows that it is the source of, or to one that nobody reads.
    row_N = source_b.new_full((n_items,), rows).scatter_(0, source_b, torch.arange(rows, device=source_b.device))
    known = torch.zeros(rows + 1, n_items, dtype=torch.bool, device=source_b.device)
    known[row_N[batch.known_E2[:, 0]], batch.known_E2[:, 1]] = True
    known_bN = known[row_N[source_b]]
    if batch.group_N is not None:
        known_bN |= batch.group_N[source_b].unsqueeze(1) == batch.group_N
    return known_bN


def are_among(places: Tensor, n_items: int) -> Tensor:
    """Return which of the N items are listed, `(N,)` booleans; place -1 is nobody."""
    listed = torch.zeros(n_items + 1, dtype=torch.bool, device=places.device)
    listed[places.flatten()] = True  # -1 is the last, which is cut off
    return listed[:-1]
