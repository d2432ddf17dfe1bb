"""Distillation losses: from a teacher's scores for several documents of a query, or from its embeddings.

Shapes: N distinct items of the batch, D width, b relations of one chunk, n negatives of a row, k = 1 + n documents.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from finetune.config.types import NotEmptyText, Positive
from finetune.data.batching.batch import Batch
from finetune.errors import CheckFailed, Problem
from finetune.losses.listwise import ListLoss, masked_log_softmax, masked_mean
from finetune.losses.per_row import RowLoss


class MarginMSE(ListLoss):
    """Squared difference between the margins of teacher and model, of the positive over each negative of the row.

    Source: Hofstaetter et al. 2020, https://arxiv.org/abs/2010.02666, equation 3.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("lists",)

    def __init__(self, scale: Positive = 1.0) -> None:
        super().__init__(scale)

    def per_list(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        target_bn = target_bk[:, :1] - target_bk[:, 1:]
        student_bn = student_bk[:, :1] - student_bk[:, 1:]
        return masked_mean((target_bn - student_bn) ** 2, mask_bk[:, 1:] & mask_bk[:, :1])


class ListKL(ListLoss):
    """Kullback-Leibler divergence of the model's from the teacher's distribution over the documents of a row.

    Both are a softmax of scores over `temperature`. The loss is multiplied by the square of the temperature, so that
    the magnitude of its gradients does not depend on it.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, over lists as in Lin et al. 2020,
    https://arxiv.org/abs/2010.11386.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("lists",)

    def __init__(self, temperature: Positive = 1.0, scale: Positive = 1.0) -> None:
        super().__init__(scale)
        self.temperature = temperature

    def per_list(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        target_bk = masked_log_softmax(target_bk / self.temperature, mask_bk)
        student_bk = masked_log_softmax(student_bk / self.temperature, mask_bk)
        divergence_bk = target_bk.exp() * (target_bk - student_bk) * mask_bk
        return divergence_bk.sum(1) * self.temperature**2


class EmbeddingMSE(RowLoss):
    """Mean squared distance of the embeddings of a row's anchor and positive to those of the teacher.

    With `of=anchor` both learn the teacher's embedding of the anchor, so that the positive, such as its translation,
    gets the same embedding.

    Source: Reimers and Gurevych 2020, https://arxiv.org/abs/2004.09813, equation 1.
    """

    def __init__(self, teacher: NotEmptyText, of: Literal["own", "anchor"] = "own") -> None:
        super().__init__()
        self.teacher = teacher
        self.of = of

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        assert batch.teacher_ND is not None
        teacher_ND = batch.teacher_ND.to(emb_ND.dtype)
        if teacher_ND.shape[1] != emb_ND.shape[1]:
            what = f"{self.teacher} has {teacher_ND.shape[1]} dimensions, and the model {emb_ND.shape[1]}."
            raise CheckFailed([Problem("loss.teacher", what, "Set model.output_width, or use another teacher.")])
        anchor_b, positive_b = batch.anchor_B[rows], batch.positive_B[rows]
        target_b = anchor_b if self.of == "anchor" else positive_b
        anchor_bD = (emb_ND[anchor_b] - teacher_ND[anchor_b]) ** 2
        positive_bD = (emb_ND[positive_b] - teacher_ND[target_b]) ** 2
        return (anchor_bD + positive_bD).mean(1) / 2
