"""Losses over the scored documents of each row, for encoders and cross-encoders alike.

Shapes: N distinct items of the batch, B relations, b of them in one chunk, k = 1 + n documents of a row, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.masks import document_indices
from finetune.losses.per_row import RowLoss

# Instead of minus infinity, which would make NaN in a list without documents.
MASKED_SCORE = -1e9


class ListLoss(RowLoss):
    """A loss over the documents of each row, its positive and its own negatives; a subclass implements `per_list`.

    The scores of an encoder are dot products times `scale`, as those of embeddings of unit length are at most 1. The
    scores of a cross-encoder are used unchanged (`from_scores`). The target of a document is its score in the data; in
    rows without scores it is 1 for the positive and 0 for the negatives.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("negatives", "lists")
    takes_scores: ClassVar[bool] = True  # read before a run: it can train a model that scores pairs

    def __init__(self, scale: Positive = 20.0) -> None:
        super().__init__()
        self.scale = scale

    def per_list(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`; scores and targets are 0 outside of the mask."""
        raise NotImplementedError

    def target(self, score_bk: Tensor) -> Tensor:
        """Return the targets for scores of the data, `(b, k)`; NaN stays NaN."""
        return score_bk

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        document_bk = document_indices(batch)[rows].clamp(min=0)
        student_bk = torch.einsum("bd,bkd->bk", emb_ND[batch.anchor_B[rows]], emb_ND[document_bk])
        return self._per_list(student_bk * self.scale, batch, rows)

    def from_scores(self, student_Bk: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the loss, or the part of a process, for scores `(B, k)` of the documents of each row."""

        def per_row(score_Bk: Tensor, batch: Batch, rows: slice) -> Tensor:
            return self._per_list(score_Bk[rows], batch, rows)

        return self._shared_mean(per_row, student_Bk, batch, rank, world)

    def _per_list(self, student_bk: Tensor, batch: Batch, rows: slice) -> Tensor:
        mask_bk = document_indices(batch)[rows] >= 0
        target_bk = torch.zeros_like(student_bk)
        target_bk[:, 0] = 1
        if batch.score_Bk is not None:
            score_bk = batch.score_Bk[rows].to(student_bk.dtype)
            # With several sources in one table, the rows of some have no scores.
            has_scores_b1 = (mask_bk & ~score_bk.isnan()).any(1, keepdim=True)
            target_bk = torch.where(has_scores_b1, self.target(score_bk), target_bk)
            mask_bk = mask_bk & ~target_bk.isnan()
        return self.per_list(student_bk.masked_fill(~mask_bk, 0), target_bk.masked_fill(~mask_bk, 0), mask_bk)


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each row over the mask, `(b,)`; 0 where the mask is empty."""
    return (value * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def masked_log_softmax(score_bk: Tensor, mask_bk: Tensor) -> Tensor:
    """Return the logarithm of the softmax over the documents in the mask, `(b, k)`."""
    return nn.functional.log_softmax(score_bk.masked_fill(~mask_bk, MASKED_SCORE), 1)
