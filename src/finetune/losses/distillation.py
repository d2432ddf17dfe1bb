"""Losses that learn from the scores of a teacher for several documents of a query.

Shapes: b relations of one chunk, n negatives of a row, k = 1 + n scored documents.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from finetune.config.types import Positive
from finetune.losses.lists import ListLoss, log_shares, mean_of


class MarginMSE(ListLoss):
    """Squared distance between the teacher's and the model's margin of the positive over each negative of the row.

    Source: Hofstaetter et al. 2020, https://arxiv.org/abs/2010.02666, equation 3.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("lists",)

    def __init__(self, scale: Positive = 1.0) -> None:
        super().__init__(scale)

    def per_list(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        target_bn, student_bn = (score_bk[:, :1] - score_bk[:, 1:] for score_bk in (target_bk, student_bk))
        return mean_of((target_bn - student_bn) ** 2, there_bk[:, 1:] & there_bk[:, :1])


class ListKL(ListLoss):
    """Kullback-Leibler divergence of the model's from the teacher's distribution over the documents of a row.

    Both are a softmax of scores over `temperature`. The loss is multiplied by the square of the temperature, so that
    its gradients keep their size.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, over lists as in Lin et al. 2020,
    https://arxiv.org/abs/2010.11386.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("lists",)

    def __init__(self, temperature: Positive = 1.0, scale: Positive = 1.0) -> None:
        super().__init__(scale)
        self.temperature = temperature

    def per_list(self, student_bk: Tensor, target_bk: Tensor, there_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        target_bk, student_bk = (log_shares(score / self.temperature, there_bk) for score in (target_bk, student_bk))
        divergence_bk = target_bk.exp() * (target_bk - student_bk) * there_bk
        return divergence_bk.sum(1) * self.temperature**2
