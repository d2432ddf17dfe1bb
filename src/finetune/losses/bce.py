"""Binary cross-entropy: every document of a row is positive, negative, or in between, independent of the others.

Shapes: b relations of one chunk, k = 1 + n documents of a row.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.errors import CheckFailed
from finetune.losses.constraints import score_range_problems
from finetune.losses.listwise import ListLoss, masked_mean


class BCE(ListLoss):
    """Mean over the documents of a row of the cross-entropy of sigmoid(score) with a target of 0 to 1.

    The scores of the data are scaled from `lowest` to `highest` to 0 to 1. `pos_weight` is the weight of the positive
    term.

    Source: Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085, equation 1, with soft targets.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores", "negatives", "lists")

    def __init__(
        self, pos_weight: Positive = 1.0, lowest: float = 0.0, highest: float = 1.0, scale: Positive = 20.0
    ) -> None:
        super().__init__(scale)
        problems = list(score_range_problems("loss", lowest, highest))
        if problems:
            raise CheckFailed(problems)
        self.pos_weight = pos_weight
        self.lowest = lowest
        self.highest = highest

    def target(self, score_bk: Tensor) -> Tensor:
        """Return the scores scaled to 0 to 1."""
        return (score_bk - self.lowest) / (self.highest - self.lowest)

    def per_list(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        pos_weight = student_bk.new_full((1,), self.pos_weight)
        loss_bk = nn.functional.binary_cross_entropy_with_logits(
            student_bk, target_bk, pos_weight=pos_weight, reduction="none"
        )
        return masked_mean(loss_bk, mask_bk)
