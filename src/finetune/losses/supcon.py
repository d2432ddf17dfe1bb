"""Supervised contrastive learning over the whole relation graph.

Shapes: N distinct items of the batch, b of them in one chunk, D width.
"""

from __future__ import annotations

from torch import Tensor

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.masks import has_positive, others
from finetune.losses.per_row import RowLoss


class SupCon(RowLoss):
    """Mean over the items of the batch, and over all items right for each, of -log softmax among all other items.

    Right for an item is whoever the data says is: its partner in any row, its class. Items with nobody in the batch
    count as others only. There is no difference between anchors and positives.

    Source: Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2 (the sum outside of the logarithm).
    """

    def __init__(self, temperature: Positive = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def rows(self, batch: Batch) -> int:
        """Return N: here a row is an item."""
        return len(batch.items_N)

    def weights(self, batch: Batch) -> Tensor | None:
        """Return 1 for items that have somebody, else 0, `(N,)`; the weights of relations say nothing of items."""
        return has_positive(batch, len(batch.items_N)).float()

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these items, `(b,)`."""
        right_bN, wrong_bN = others(batch, rows, len(emb_ND))
        logits_bN = emb_ND[rows] @ emb_ND.T / self.temperature
        spread_b1 = logits_bN.masked_fill(~(right_bN | wrong_bN), float("-inf")).logsumexp(1, keepdim=True)
        lost_bN = (spread_b1 - logits_bN).masked_fill(~right_bN, 0)
        return lost_bN.sum(1) / right_bN.sum(1).clamp(min=1)
