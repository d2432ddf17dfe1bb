"""Losses that learn from a score for each pair of items.

Shapes: N distinct items of the batch, B relations, k scored documents of a row, P = B k pairs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from finetune.config.types import Positive
from finetune.data.batching.batch import Batch
from finetune.data.schema.sample_values import MIDDLE_SCORE
from finetune.errors import CheckFailed, Problem
from finetune.losses.constraints import score_range_problems
from finetune.losses.loss import Loss
from finetune.losses.masks import document_indices, document_weights, weighted_mean


@dataclass(frozen=True)
class ScoredPairs:
    """All scored pairs of a batch: item indices `left_P` and `right_P`, `score_P` and `weight_P`.

    An absent document has weight 0 and score 0: all shapes are known in advance, and the device never synchronizes.
    """

    left_P: Tensor
    right_P: Tensor
    score_P: Tensor
    weight_P: Tensor

    @classmethod
    def of(cls, batch: Batch, right_from: float | None = None) -> ScoredPairs:
        """Return the pairs of anchors and their documents; without scores, those are 1 for positives and 0 for
        negatives.

        With `right_from`, scores become 1 from that score on and 0 below.
        """
        right_Bk = document_indices(batch)
        if batch.score_Bk is None:
            score_Bk = torch.zeros(right_Bk.shape, device=right_Bk.device)
            score_Bk[:, 0] = 1
        else:
            score_Bk = batch.score_Bk.float()
            if right_from is not None:
                score_Bk = torch.where(score_Bk.isnan(), score_Bk, score_Bk >= right_from)
        mask_Bk = ~score_Bk.isnan() & (right_Bk >= 0)
        left_Bk = batch.anchor_B.unsqueeze(1).expand_as(right_Bk)
        return cls(
            left_Bk.flatten(),
            right_Bk.clamp(min=0).flatten(),
            score_Bk.nan_to_num(0.0).flatten(),
            document_weights(mask_Bk, batch).flatten(),
        )

    def mean(self, value_P: Tensor) -> Tensor:
        """Return the weighted mean of a value of each pair."""
        return weighted_mean(value_P, self.weight_P)

    def cosine(self, emb_ND: Tensor) -> Tensor:
        """Return the cosine of each pair, `(P,)`."""
        return torch.nn.functional.cosine_similarity(emb_ND[self.left_P], emb_ND[self.right_P])


class CoSENT(Loss):
    """log(1 + sum over pairs i, j with score_i > score_j of exp((cosine_j - cosine_i) / temperature)).

    Only the order of the scores matters, not their values. Sorted by score the sum is a cumulative one: P log P.

    Source: Su 2022, https://kexue.fm/archives/8847, equation 8.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, temperature: Positive = 0.05) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        pairs = ScoredPairs.of(batch)
        return pairwise_order_loss(self._similarity(emb_ND, pairs) / self.temperature, pairs.score_P, pairs.weight_P)

    def _similarity(self, emb_ND: Tensor, pairs: ScoredPairs) -> Tensor:
        return pairs.cosine(emb_ND)


class AnglE(CoSENT):
    """CoSENT over the angle of two embeddings as complex vectors; unlike the cosine it has a gradient at its extremes.

    Source: Li and Li 2023, https://arxiv.org/abs/2309.12871, equations 5 to 8. The first half of an embedding is the
    real part, the second the imaginary one; so the width must be even.
    """

    def _similarity(self, emb_ND: Tensor, pairs: ScoredPairs) -> Tensor:
        half = emb_ND.shape[1] // 2
        re, im = emb_ND[:, :half], emb_ND[:, half:]
        re_x, im_x = re[pairs.left_P], im[pairs.left_P]
        re_y, im_y = re[pairs.right_P], im[pairs.right_P]
        square_y = (re_y**2 + im_y**2).sum(1, keepdim=True)
        quotient_re = (re_x * re_y + im_x * im_y) / square_y
        quotient_im = (im_x * re_y - re_x * im_y) / square_y
        length = (re_x**2 + im_x**2).sum(1, keepdim=True).sqrt() / square_y.sqrt()
        return ((quotient_re / length).sum(1) + (quotient_im / length).sum(1)).abs()

    def check_width(self, width: int) -> None:
        """Check that the width is even."""
        if width % 2:
            what = f"loss=angle takes embeddings as complex numbers, and {width} dimensions cannot be halved."
            raise CheckFailed([Problem("loss", what, "Use loss=cosent.")])


class CosineMSE(Loss):
    """Squared difference of the cosine and the score, which is scaled from `lowest` to `highest` to 0 to 1.

    Source: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3, regression objective.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, lowest: float = 0.0, highest: float = 1.0) -> None:
        super().__init__()
        problems = list(score_range_problems("loss", lowest, highest))
        if problems:
            raise CheckFailed(problems)
        self.lowest = lowest
        self.highest = highest

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        pairs = ScoredPairs.of(batch)
        target_P = (pairs.score_P - self.lowest) / (self.highest - self.lowest)
        return pairs.mean((pairs.cosine(emb_ND) - target_P) ** 2)

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the sum of the weights of the pairs."""
        return ScoredPairs.of(batch).weight_P.sum()


class Pearson(Loss):
    """One minus the correlation of cosines and scores over the batch, which is independent of their scale and offset.

    Source: Pearson 1895, as a loss in Liu et al. 2024, https://arxiv.org/abs/2406.05326.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores",)

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch; 1 if all scores are equal."""
        pairs = ScoredPairs.of(batch)
        cosine_P = pairs.cosine(emb_ND)
        score_P = pairs.score_P.to(cosine_P)
        x_P = cosine_P - pairs.mean(cosine_P)
        y_P = score_P - pairs.mean(score_P)
        variances = (pairs.mean(x_P**2) * pairs.mean(y_P**2)).clamp(min=1e-12)
        return 1 - pairs.mean(x_P * y_P) / variances.sqrt()


class Contrastive(Loss):
    """Mean of distance^2 / 2 over positive pairs and max(margin - distance, 0)^2 / 2 over negative pairs.

    The distance is 1 - cosine. Pairs with a score from `right_from` on are positive; None is 0.5, for scores of 0 to 1,
    which the check before a run enforces. Without scores, the positive of a row is positive and its negatives are
    negative. `only_hard` selects the negative pairs nearer than the farthest positive one, and the positive pairs
    farther than the nearest negative one, and sums their losses without the factor 1 / 2.

    Source: Hadsell et al. 2006, http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf, equation 4; only
    hard pairs as in sentence-transformers' OnlineContrastiveLoss.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("scores", "negatives")

    def __init__(self, margin: Positive = 0.5, right_from: float | None = None, only_hard: bool = False) -> None:
        super().__init__()
        self.margin = margin
        self.right_from = MIDDLE_SCORE if right_from is None else right_from
        self.only_hard = only_hard

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        pairs = ScoredPairs.of(batch, self.right_from)
        distance_P, is_positive_P = 1 - pairs.cosine(emb_ND), pairs.score_P > 0
        negative_loss_P = (self.margin - distance_P).clamp(min=0) ** 2
        loss_P = torch.where(is_positive_P, distance_P**2, negative_loss_P)
        if not self.only_hard:
            return pairs.mean(loss_P) / 2
        mask_P = pairs.weight_P > 0
        positive_P, negative_P = is_positive_P & mask_P, ~is_positive_P & mask_P
        farthest = _extreme_distance(distance_P.detach(), positive_P, negative_P, farthest=True)
        nearest = _extreme_distance(distance_P.detach(), negative_P, positive_P, farthest=False)
        hard_P = torch.where(is_positive_P, distance_P > nearest, distance_P < farthest)
        return (loss_P * hard_P * pairs.weight_P).sum()

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the sum of the weights of the pairs; `only_hard` is a sum, which has no denominator."""
        if self.only_hard:
            return super().total_weight(batch)
        return ScoredPairs.of(batch, self.right_from).weight_P.sum()


def pairwise_order_loss(value_P: Tensor, score_P: Tensor, weight_P: Tensor) -> Tensor:
    """Return log(1 + sum over i, j with score_i > score_j of w_i w_j exp(value_j - value_i)) for values `(P,)`."""
    score_P, order_P = score_P.sort()
    # Instead of minus infinity, which would make a gradient of NaN in a cumulative sum.
    log_weight_P = weight_P[order_P].log().clamp(min=-1e4).to(value_P)
    value_P = value_P[order_P]
    cumulative_P = torch.logcumsumexp(value_P + log_weight_P, 0)
    lower_P = torch.searchsorted(score_P, score_P, right=False)  # the number of lower scores
    below_P = cumulative_P[(lower_P - 1).clamp(min=0)].masked_fill(lower_P == 0, float("-inf"))
    terms_P = below_P - value_P + log_weight_P
    return torch.cat([terms_P, terms_P.new_zeros(1)]).logsumexp(0)


def _extreme_distance(distance_P: Tensor, mask_P: Tensor, others_P: Tensor, *, farthest: bool) -> Tensor:
    """Return the largest (or smallest) distance in the mask; if that is empty, the mean distance of the others."""
    if farthest:
        extreme = distance_P.masked_fill(~mask_P, float("-inf")).max()
    else:
        extreme = distance_P.masked_fill(~mask_P, float("inf")).min()
    mean = (distance_P * others_P).sum() / others_P.sum().clamp(min=1)
    return torch.where(mask_P.any(), extreme, mean)
