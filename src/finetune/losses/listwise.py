"""Losses over the scored documents of each row, for encoders and cross-encoders alike.

Shapes: N distinct items of the batch, B relations, b of them in one chunk, k = 1 + n documents of a row, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.losses.documents import documents
from finetune.losses.per_row import RowLoss

# As good as minus infinity, of which a list without any document would make NaN.
NOBODY = -1e9


class ListLoss(RowLoss):
    """A loss over the documents of each row, its positive and its own negatives; a subclass says `per_list`.

    An encoder's scores are dot products times `scale`: embeddings of unit length reach 1 only. A cross-encoder's are
    taken as they are (`of_scores`). The target of a document is its score in the data; in rows without scores it is 1
    for the positive and 0 for the negatives.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("negatives", "lists")
    takes_scores: ClassVar[bool] = True  # read before a run: it goes with a model that scores pairs

    def __init__(self, scale: Positive = 20.0) -> None:
        super().__init__()
        self.scale = scale

    def per_list(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`; scores and targets are 0 where no document is."""
        raise NotImplementedError

    def target(self, score_bk: Tensor) -> Tensor:
        """Return the targets that scores of the data stand for, `(b, k)`; NaN stays."""
        return score_bk

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        document_bk = documents(batch)[rows].clamp(min=0)
        student_bk = torch.einsum("bd,bkd->bk", emb_ND[batch.anchor_B[rows]], emb_ND[document_bk])
        return self._per_list(student_bk * self.scale, batch, rows)

    def of_scores(self, student_Bk: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the loss, or the share of a process, of scores `(B, k)` of the documents of each row."""
        return self._shared_mean(
            lambda all_Bk, batch, rows: self._per_list(all_Bk[rows], batch, rows), student_Bk, batch, rank, world
        )

    def _per_list(self, student_bk: Tensor, batch: Batch, rows: slice) -> Tensor:
        there_bk = documents(batch)[rows] >= 0
        target_bk = torch.zeros_like(student_bk)
        target_bk[:, 0] = 1
        if batch.score_Bk is not None:
            score_bk = batch.score_Bk[rows].to(student_bk.dtype)
            # Where several sources share a table, the rows of some have no scores.
            has_scores_b1 = (there_bk & ~score_bk.isnan()).any(1, keepdim=True)
            target_bk = torch.where(has_scores_b1, self.target(score_bk), target_bk)
            there_bk = there_bk & ~target_bk.isnan()
        return self.per_list(student_bk.masked_fill(~there_bk, 0), target_bk.masked_fill(~there_bk, 0), there_bk)


def mean_of(value: Tensor, there: Tensor) -> Tensor:
    """Return the mean of what is there of each row, `(b,)`; 0 where nothing is."""
    return (value * there).flatten(1).sum(1) / there.flatten(1).sum(1).clamp(min=1)


def log_shares(score_bk: Tensor, there_bk: Tensor) -> Tensor:
    """Return the logarithm of the softmax over the documents that are there, `(b, k)`."""
    return nn.functional.log_softmax(score_bk.masked_fill(~there_bk, NOBODY), 1)
