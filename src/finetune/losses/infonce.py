"""InfoNCE with in-batch negatives.

Shapes: N distinct items of the batch, B relations, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.config.types import Positive
from finetune.data.batches import Batch


class InfoNCE(nn.Module):
    """Cross-entropy of finding each anchor's positive among all candidates of the batch.

    The candidates of an anchor are the positives and negatives of the whole batch, each distinct item once. An item
    that is known to be right for the anchor (anywhere in the data, not just in this row), and the anchor itself, are
    no candidates. `symmetric` averages this with the same from the positives to the anchors.

    Source: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; both directions as in CLIP (Radford et al.
    2021, https://arxiv.org/abs/2103.00020).
    """

    def __init__(self, temperature: Positive = 0.05, symmetric: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.symmetric = symmetric

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss over the batch's relations, by their weights if they have any, a scalar."""
        candidates = torch.cat([batch.positive_B, batch.negatives_Bn[batch.negatives_Bn >= 0]])
        loss = self._one_direction(emb_ND, batch, batch.anchor_B, batch.positive_B, candidates)
        if not self.symmetric:
            return loss
        back = self._one_direction(emb_ND, batch, batch.positive_B, batch.anchor_B, batch.anchor_B)
        return (loss + back) / 2

    def _one_direction(
        self, emb_ND: Tensor, batch: Batch, source_B: Tensor, target_B: Tensor, candidates: Tensor
    ) -> Tensor:
        # Scored against all N items and masked down to the candidates: no index shuffling, no device sync.
        logits_BN = emb_ND[source_B] @ emb_ND.T / self.temperature
        excluded_BN = _known(batch, len(emb_ND))[source_B]
        excluded_BN |= ~_is_in(candidates, len(emb_ND))
        excluded_BN.scatter_(1, source_B.unsqueeze(1), True)
        excluded_BN.scatter_(1, target_B.unsqueeze(1), False)
        logits_BN = logits_BN.masked_fill(excluded_BN, float("-inf"))
        if batch.weight_B is None:
            return nn.functional.cross_entropy(logits_BN, target_B)
        loss_B = nn.functional.cross_entropy(logits_BN, target_B, reduction="none")
        return (loss_B * batch.weight_B).sum() / batch.weight_B.sum().clamp(min=1e-12)


def _known(batch: Batch, n_items: int) -> Tensor:
    known_NN = torch.zeros(n_items, n_items, dtype=torch.bool, device=batch.known_E2.device)
    known_NN[batch.known_E2[:, 0], batch.known_E2[:, 1]] = True
    if batch.group_N is not None:
        known_NN |= batch.group_N.unsqueeze(0) == batch.group_N.unsqueeze(1)
    return known_NN


def _is_in(items: Tensor, n_items: int) -> Tensor:
    member_N = torch.zeros(n_items, dtype=torch.bool, device=items.device)
    member_N[items] = True
    return member_N
