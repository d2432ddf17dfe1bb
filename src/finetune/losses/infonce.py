"""InfoNCE with in-batch negatives.

Shapes: N distinct items of the batch, B relations, b of them in one chunk, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batches import Batch
from finetune.losses.rows import RowLoss, are_among, known_positives


class InfoNCE(RowLoss):
    """Cross-entropy of finding each anchor's positive among all candidates of the batch.

    The candidates of an anchor are the positives and negatives of the whole batch, each distinct item once. An item
    that is known to be right for the anchor (anywhere in the data, not just in this row), and the anchor itself, are
    no candidates. `symmetric` averages this with the same from the positives to the anchors.

    Source: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; both directions as in CLIP (Radford et al.
    2021, https://arxiv.org/abs/2103.00020).
    """

    def __init__(self, temperature: Positive = 0.05, symmetric: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.symmetric = symmetric

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows, `(b,)`."""
        anchor_b, positive_b = batch.anchor_B[rows], batch.positive_B[rows]
        candidates = torch.cat([batch.positive_B, batch.negatives_Bn.flatten()])
        loss_b = self._one_direction(emb_ND, batch, anchor_b, positive_b, candidates)
        if not self.symmetric:
            return loss_b
        return (loss_b + self._one_direction(emb_ND, batch, positive_b, anchor_b, batch.anchor_B)) / 2

    def _one_direction(
        self, emb_ND: Tensor, batch: Batch, source_b: Tensor, target_b: Tensor, candidates: Tensor
    ) -> Tensor:
        # Scored against all N items and masked down to the candidates: no index shuffling, no device sync.
        logits_bN = emb_ND[source_b] @ emb_ND.T / self.temperature
        excluded_bN = known_positives(batch, source_b, len(emb_ND))
        excluded_bN |= ~are_among(candidates, len(emb_ND))
        excluded_bN.scatter_(1, source_b.unsqueeze(1), True)
        excluded_bN.scatter_(1, target_b.unsqueeze(1), False)
        logits_bN = logits_bN.masked_fill(excluded_bN, float("-inf"))
        return nn.functional.cross_entropy(logits_bN, target_b, reduction="none")
