"""The sigmoid loss: a binary classification of every pair of the batch.

Shapes: N distinct items of the batch, B relations, b of them in one chunk, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.masks import candidate_mask, known_positive_mask
from finetune.losses.per_row import RowLoss


class SigLIP(RowLoss):
    """Sum over the candidates of an anchor of -log sigmoid(z (cosine / temperature + bias)); z = 1 for positives, else
    -1.

    Candidates are the positives and negatives of the whole batch, each distinct item once; all known positives of the
    anchor are positives. Rows are independent of each other, so they are split into chunks and over processes.
    Temperature and bias are learned unless `learn=false`.

    Source: Zhai et al. 2023, https://arxiv.org/abs/2303.15343, algorithm 1.
    """

    def __init__(self, temperature: Positive = 0.1, bias: float = -10.0, learn: bool = True) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learn)

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        anchor_b, positive_b = batch.anchor_B[rows], batch.positive_B[rows]
        cosine_bN = emb_ND[anchor_b] @ emb_ND.T
        is_positive_bN = known_positive_mask(batch, anchor_b, len(emb_ND)).scatter_(1, positive_b.unsqueeze(1), True)
        candidates_bN = candidate_mask(batch, len(emb_ND)).expand_as(is_positive_bN)
        candidates_bN = candidates_bN.scatter(1, anchor_b.unsqueeze(1), False)
        candidates_bN = candidates_bN.scatter(1, positive_b.unsqueeze(1), True)  # of two views it is the anchor itself
        logits_bN = cosine_bN * self.log_scale.float().exp() + self.bias.float()
        loss_bN = -nn.functional.logsigmoid(torch.where(is_positive_bN, logits_bN, -logits_bN))
        return loss_bN.masked_fill(~candidates_bN, 0).sum(1)
