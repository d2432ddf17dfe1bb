"""The sigmoid loss: every pair of the batch is right or wrong by itself.

Shapes: N distinct items of the batch, B relations, b of them in one chunk, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.masks import candidates, known_positives
from finetune.losses.per_row import RowLoss


class SigLIP(RowLoss):
    """Sum over the candidates of an anchor of -log sigmoid(z (cosine / temperature + bias)), z = 1 if right, else -1.

    Candidates are the positives and negatives of the whole batch, each distinct item once; all that are known to be
    right for the anchor are right. Rows are independent of each other, so chunks and processes each take some.
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
        right_bN = known_positives(batch, anchor_b, len(emb_ND)).scatter_(1, positive_b.unsqueeze(1), True)
        candidates_bN = candidates(batch, len(emb_ND)).expand_as(right_bN).scatter(1, anchor_b.unsqueeze(1), False)
        candidates_bN = candidates_bN.scatter(1, positive_b.unsqueeze(1), True)  # of two views it is the anchor itself
        logits_bN = cosine_bN * self.log_scale.float().exp() + self.bias.float()
        lost_bN = -nn.functional.logsigmoid(torch.where(right_bN, logits_bN, -logits_bN))
        return lost_bN.masked_fill(~candidates_bN, 0).sum(1)
