"""InfoNCE with in-batch negatives, and variants of it.

Shapes: N distinct items of the batch, B relations, b of them in one chunk, D width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from finetune.config.types import NotEmptyText, NotNegative, Positive
from finetune.data.batching.batch import Batch
from finetune.losses.masks import candidate_mask, index_mask, known_positive_mask
from finetune.losses.per_row import RowLoss

_MIN_TEMPERATURE = 0.01  # of a learned one, as in CLIP


class InfoNCE(RowLoss):
    """Cross-entropy of finding each anchor's positive among all candidates of the batch.

    The candidates of an anchor are the positives and negatives of the whole batch, each distinct item once, without
    other known positives of the anchor (anywhere in the data, not just in this row) and the anchor itself. `symmetric`
    averages this with the loss in the opposite direction, from the positives to the anchors.

    `learn_temperature` makes the temperature a parameter, as in CLIP. `margin` is subtracted from the cosine of the
    positive (additive margin softmax, Yang et al. 2019, https://arxiv.org/abs/1902.08564). `hardness` times the cosine
    of a negative is added to its logit, without a gradient (Lan et al. 2025, https://arxiv.org/abs/2503.04812).
    `false_negative_margin` removes candidates whose cosine exceeds that of the positive by more than this, because they
    are probably positives (GISTEmbed, Solatorio 2024, https://arxiv.org/abs/2402.16829). The cosines for this are those
    of `guide`, another text encoder, or the model's own. With `negatives=given` only those of the row are candidates.

    Source: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; both directions as in CLIP (Radford et al.
    2021, https://arxiv.org/abs/2103.00020).
    """

    def __init__(
        self,
        temperature: Positive = 0.05,
        symmetric: bool = True,
        learn_temperature: bool = False,
        margin: NotNegative = 0.0,
        hardness: NotNegative = 0.0,
        false_negative_margin: NotNegative | None = None,
        guide: NotEmptyText | None = None,
        negatives: Literal["batch", "given"] = "batch",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None
        self.symmetric = symmetric
        self.margin = margin
        self.hardness = hardness
        self.teacher = guide
        if guide and false_negative_margin is None:
            false_negative_margin = 0.0  # the purpose of a guide
        self.false_negative_margin = false_negative_margin
        self.negatives = negatives

    def per_row(self, emb_ND: Tensor, batch: Batch, rows: slice) -> Tensor:
        """Return the loss of each of these rows of the batch, `(b,)`."""
        anchor_b, positive_b = batch.anchor_B[rows], batch.positive_B[rows]
        if self.negatives == "given":
            own_bN = _own_negatives(batch.negatives_Bn[rows], len(emb_ND))
            return self._one_direction(emb_ND, batch, anchor_b, positive_b, own_bN)
        loss_b = self._one_direction(emb_ND, batch, anchor_b, positive_b, candidate_mask(batch, len(emb_ND)))
        if not self.symmetric:
            return loss_b
        anchors_N = index_mask(batch.anchor_B, len(emb_ND))
        return (loss_b + self._one_direction(emb_ND, batch, positive_b, anchor_b, anchors_N)) / 2

    def _one_direction(
        self, emb_ND: Tensor, batch: Batch, source_b: Tensor, target_b: Tensor, candidates_N: Tensor
    ) -> Tensor:
        # Scores against all N items, masked to the candidates: no indexing, no synchronization with the device.
        cosine_bN = emb_ND[source_b] @ emb_ND.T
        target_b1 = target_b.unsqueeze(1)
        excluded_bN = known_positive_mask(batch, source_b, len(emb_ND))
        excluded_bN |= ~candidates_N
        excluded_bN.scatter_(1, source_b.unsqueeze(1), True)
        if self.false_negative_margin is not None:
            guide_bN = self._guide(cosine_bN, batch, source_b)
            excluded_bN |= guide_bN > guide_bN.gather(1, target_b1) + self.false_negative_margin
        excluded_bN.scatter_(1, target_b1, False)
        if self.margin:
            cosine_bN = cosine_bN.scatter_add(1, target_b1, torch.full_like(cosine_bN[:, :1], -self.margin))
        logits_bN = cosine_bN * self._scale()
        if self.hardness:
            logits_bN = logits_bN + (self.hardness * cosine_bN.detach()).scatter(1, target_b1, 0.0)
        return self._loss_from_logits(logits_bN.masked_fill(excluded_bN, float("-inf")), target_b)

    def _guide(self, cosine_bN: Tensor, batch: Batch, source_b: Tensor) -> Tensor:
        """Return the cosines that decide about false negatives, `(b, N)`."""
        if self.teacher is None:
            return cosine_bN.detach()
        assert batch.teacher_ND is not None
        guide_ND = nn.functional.normalize(batch.teacher_ND.to(cosine_bN.dtype), dim=1)
        return guide_ND[source_b] @ guide_ND.T

    def _scale(self) -> Tensor | float:
        if self.log_scale is None:
            return 1 / self.temperature
        return self.log_scale.float().clamp(max=-math.log(_MIN_TEMPERATURE)).exp()

    def _loss_from_logits(self, logits_bN: Tensor, target_b: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits_bN, target_b, reduction="none")


class Decoupled(InfoNCE):
    """InfoNCE without the positive in the denominator, so that easy positives keep a gradient; learns from pairs.

    Source: Yeh et al. 2022, https://arxiv.org/abs/2110.06848, equation 3.
    """

    def _loss_from_logits(self, logits_bN: Tensor, target_b: Tensor) -> Tensor:
        target_b1 = target_b.unsqueeze(1)
        negatives_bN = logits_bN.scatter(1, target_b1, float("-inf"))
        # The loss of a row without negatives is 0; -inf would make a gradient of NaN.
        has_none_b = (negatives_bN == float("-inf")).all(1)
        denominator_b = negatives_bN.masked_fill(has_none_b.unsqueeze(1), 0).logsumexp(1)
        return (denominator_b - logits_bN.gather(1, target_b1).squeeze(1)).masked_fill(has_none_b, 0)


def _own_negatives(negatives_bn: Tensor, n_items: int) -> Tensor:
    """Return which of the N items are negatives of each row, `(b, N)` booleans; index -1 is no item."""
    own = torch.zeros(len(negatives_bn), n_items + 1, dtype=torch.bool, device=negatives_bn.device)
    own.scatter_(1, negatives_bn.masked_fill(negatives_bn < 0, n_items), True)
    return own[:, :-1]
