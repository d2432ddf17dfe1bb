"""Supervised contrastive learning over all relations of a batch.

Shapes: N distinct items of the batch, b of them in one chunk, D width.
"""

from __future__ import annotations

from torch import Tensor

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.masks import has_positive, positive_and_negative_masks
from finetune.losses.per_row import RowLoss


class SupCon(RowLoss):
    """Mean over the items of the batch, and over the positives of each, of -log softmax among all other items.

    The positives of an item are all known ones: its partners in any row, or the items of its class. Items without a
    positive in the batch are only negatives of others. There is no difference between anchors and positives.

    Source: Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2 (the sum outside of the logarithm).
    """

    def __init__(self, temperature: Positive = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def rows(self, batch: Batch) -> int:
        """Return N: here a row is an item."""
        return len(batch.items_N)

    def weights(self, batch: Batch) -> Tensor | None:
        """Return 1 for items with a positive, else 0, `(N,)`; the weights of relations do not apply to items."""
        return has_positive(batch, len(batch.items_N)).float()

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these items, `(b,)`."""
        positive_bN, negative_bN = positive_and_negative_masks(batch, rows, len(emb_ND))
        logits_bN = emb_ND[rows] @ emb_ND.T / self.temperature
        others_bN = positive_bN | negative_bN
        denominator_b1 = logits_bN.masked_fill(~others_bN, float("-inf")).logsumexp(1, keepdim=True)
        loss_bN = (denominator_b1 - logits_bN).masked_fill(~positive_bN, 0)
        return loss_bN.sum(1) / positive_bN.sum(1).clamp(min=1)
