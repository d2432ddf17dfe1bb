"""Ranking losses over the documents of a row, pairwise or listwise.

Shapes: b relations of one chunk, k documents of a row; (b, k, k) has one entry per pair of documents i and j.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from finetune.config.types import Positive, PositiveInt
from finetune.losses.listwise import MASKED_SCORE, ListLoss, masked_log_softmax, masked_mean


class RankNet(ListLoss):
    """Mean over the documents i, j of a row with target_i > target_j of log(1 + exp(-sigma (score_i - score_j))).

    Source: Burges et al. 2005, https://doi.org/10.1145/1102351.1102363, equation 3 with a target probability of 1.
    """

    def __init__(self, sigma: Positive = 1.0, scale: Positive = 20.0) -> None:
        super().__init__(scale)
        self.sigma = sigma

    def per_list(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`; 0 if all targets are equal."""
        difference_bkk = student_bk.unsqueeze(2) - student_bk.unsqueeze(1)
        loss_bkk = nn.functional.softplus(-self.sigma * difference_bkk)
        mask_bkk, weight_bkk = self._pairs(student_bk.detach(), target_bk, mask_bk)
        return masked_mean(weight_bkk * loss_bkk, mask_bkk)

    def _pairs(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask of the pairs that count, and their weights, both `(b, k, k)`."""
        is_better_bkk = (target_bk.unsqueeze(2) > target_bk.unsqueeze(1)) & _pair_mask(mask_bk)
        return is_better_bkk, is_better_bkk.to(student_bk)


class LambdaLoss(RankNet):
    """RankNet in bits, with pairs weighted by their effect on the nDCG of the current ranking.

    With gains G = (2^target - 1) / maxDCG and discounts D = log2(1 + rank), the `weighting` of a pair is

    - `none`: 1
    - `ndcg1`: G_i / D_i, over all pairs of documents, also those of equal targets
    - `ndcg2`: |G_i - G_j| times the difference of 1 / D between the ranks |i - j| and |i - j| + 1
    - `lambdarank`: |G_i - G_j| |1 / D_i - 1 / D_j|

    With `k` only pairs with a document among the first k ranks count, and maxDCG is that of k documents. Targets are
    grades from 0; scores of a teacher only work with `none`.

    Source: Wang et al. 2018, https://doi.org/10.1145/3269206.3271784, sections 4 to 6.
    """

    def __init__(
        self,
        weighting: Literal["none", "ndcg1", "ndcg2", "lambdarank"] = "ndcg2",
        k: PositiveInt | None = None,
        sigma: Positive = 1.0,
        scale: Positive = 20.0,
    ) -> None:
        super().__init__(sigma, scale)
        self.weighting = weighting
        self.k = k

    def _pairs(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask of the pairs that count, and their weights, both `(b, k, k)`."""
        mask_bkk, weight_bkk = super()._pairs(student_bk, target_bk, mask_bk)
        rank_bk = student_bk.masked_fill(~mask_bk, MASKED_SCORE).argsort(dim=1, descending=True, stable=True).argsort(1)
        if self.weighting == "ndcg1":
            mask_bkk = _pair_mask(mask_bk)
        if self.k is not None:
            first_bk = rank_bk < self.k
            mask_bkk = mask_bkk & (first_bk.unsqueeze(2) | first_bk.unsqueeze(1))
        if self.weighting != "none":
            weight_bkk = self._weights(rank_bk, self._gains(target_bk))
        return mask_bkk, weight_bkk / math.log(2)

    def _gains(self, target_bk: Tensor) -> Tensor:
        """Return the gain of each document in the nDCG, `(b, k)`; 0 for an absent one, whose target is 0."""
        gain_bk = 2**target_bk - 1
        position_k = torch.arange(target_bk.shape[1], device=target_bk.device)
        best_bk = gain_bk.sort(1, descending=True).values * _discount(position_k)
        return gain_bk / best_bk[:, : self.k].sum(1, keepdim=True).clamp(min=1e-10)

    def _weights(self, rank_bk: Tensor, gain_bk: Tensor) -> Tensor:
        if self.weighting == "ndcg1":
            return (gain_bk * _discount(rank_bk)).unsqueeze(2)
        gain_bkk = (gain_bk.unsqueeze(2) - gain_bk.unsqueeze(1)).abs()
        if self.weighting == "ndcg2":
            between_bkk = (rank_bk.unsqueeze(2) - rank_bk.unsqueeze(1)).abs()
            return gain_bkk * (_discount((between_bkk - 1).clamp(min=0)) - _discount(between_bkk))
        discount_bk = _discount(rank_bk)
        return gain_bkk * (discount_bk.unsqueeze(2) - discount_bk.unsqueeze(1)).abs()


class ListNet(ListLoss):
    """Cross-entropy of the softmax of the scores with the softmax of the targets, over the documents of a row.

    Source: Cao et al. 2007, https://doi.org/10.1145/1273496.1273513, with the probabilities of being first.
    """

    def per_list(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        target_bk = masked_log_softmax(target_bk, mask_bk).exp()
        return -(target_bk * masked_log_softmax(student_bk, mask_bk) * mask_bk).sum(1)


class ListMLE(ListLoss):
    """Negative log-likelihood of the order of the targets, if documents are drawn one by one by a softmax of the
    scores.

    Documents of equal targets are in the order of the row. `position_aware` weights the draw at rank i of n by
    2^(n - i) - 1, normalized to a sum of 1 for each list: the first ranks count most.

    Sources: Xia et al. 2008, https://doi.org/10.1145/1390156.1390306; the weights: Lan et al. 2014,
    https://auai.org/uai2014/proceedings/individuals/164.pdf.
    """

    def __init__(self, position_aware: bool = False, scale: Positive = 20.0) -> None:
        super().__init__(scale)
        self.position_aware = position_aware

    def per_list(self, student_bk: Tensor, target_bk: Tensor, mask_bk: Tensor) -> Tensor:
        """Return the loss of each list, `(b,)`."""
        order_bk = target_bk.masked_fill(~mask_bk, float("-inf")).argsort(dim=1, descending=True, stable=True)
        mask_bk = mask_bk.gather(1, order_bk)
        student_bk = student_bk.gather(1, order_bk).masked_fill(~mask_bk, MASKED_SCORE)
        remaining_bk = student_bk.flip(1).logcumsumexp(1).flip(1)  # of the documents not drawn yet
        loss_bk = (remaining_bk - student_bk) * mask_bk
        if self.position_aware:
            loss_bk = loss_bk * _position_weights(mask_bk)
        return loss_bk.sum(1)


def _pair_mask(mask_bk: Tensor) -> Tensor:
    return mask_bk.unsqueeze(2) & mask_bk.unsqueeze(1)


def _discount(rank: Tensor) -> Tensor:
    return 1 / torch.log2(rank + 2.0)  # ranks start at 0


def _position_weights(mask_bk: Tensor) -> Tensor:
    position_k = torch.arange(1, mask_bk.shape[1] + 1, device=mask_bk.device)
    # Divided by 2^n, which cancels out and would overflow for a long list.
    weight_bk = (0.5**position_k - 0.5 ** mask_bk.sum(1, keepdim=True)) * mask_bk
    return weight_bk / weight_bk.sum(1, keepdim=True).clamp(min=1e-30)
