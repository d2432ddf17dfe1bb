"""Losses that learn from the scores of a teacher for several documents of a query.

Shapes: N distinct items of the batch, B relations, k = 1 + n scored documents of a row, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batches import Batch
from finetune.losses.documents import documents
from finetune.losses.rows import RowLoss


class MarginMSE(RowLoss):
    """Squared distance between the teacher's and the model's margin of the positive over each negative of the row.

    The model's scores are dot products times `scale`: embeddings of unit length reach 1 only, a cross-encoder's
    logits 10 or more.

    Source: Hofstaetter et al. 2020, https://arxiv.org/abs/2010.02666, equation 3.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("lists",)

    def __init__(self, scale: Positive = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        teacher_bk, student_bk, there_bk = _scores(emb_ND, batch, rows)
        teacher_bn, student_bn = (
            score_bk[:, :1] - score_bk[:, 1:] for score_bk in (teacher_bk, student_bk * self.scale)
        )
        there_bn = there_bk[:, 1:] & there_bk[:, :1]
        return ((teacher_bn - student_bn) ** 2 * there_bn).sum(1) / there_bn.sum(1).clamp(min=1)


class ListKL(RowLoss):
    """Kullback-Leibler divergence of the model's from the teacher's distribution over the documents of a row.

    Both are a softmax of scores over `temperature`; the model's scores are dot products times `scale`. The loss is
    multiplied by the square of the temperature, so that its gradients keep their size.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, over lists as in Lin et al. 2020,
    https://arxiv.org/abs/2010.11386.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("lists",)

    def __init__(self, temperature: Positive = 1.0, scale: Positive = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.scale = scale

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        teacher_bk, student_bk, there_bk = _scores(emb_ND, batch, rows)
        # A large negative number in place of minus infinity: a row without any document would be NaN.
        teacher_bk, student_bk = (
            nn.functional.log_softmax((score_bk / self.temperature).masked_fill(~there_bk, -1e9), 1)
            for score_bk in (teacher_bk, student_bk * self.scale)
        )
        divergence_bk = teacher_bk.exp() * (teacher_bk - student_bk) * there_bk
        return divergence_bk.sum(1) * self.temperature**2


def _scores(emb_ND: Tensor, batch: Batch, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Return the teacher's scores, the model's, and which are there, each `(b, k)`."""
    if batch.score_Bk is None:
        raise ValueError("the rows of this batch have no scores")
    document_bk = documents(batch)[rows]
    teacher_bk = batch.score_Bk[rows].to(emb_ND.dtype)
    there_bk = ~teacher_bk.isnan() & (document_bk >= 0)
    student_bk = torch.einsum("bd,bkd->bk", emb_ND[batch.anchor_B[rows]], emb_ND[document_bk.clamp(min=0)])
    return teacher_bk.masked_fill(~there_bk, 0), student_bk, there_bk
