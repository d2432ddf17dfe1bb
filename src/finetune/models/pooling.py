"""Pooling: from the embeddings of tokens (or of image patches) to one embedding per item.

Shapes: n items, T tokens of all of them in a row, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.models.packing import Packing

MODES = ("mean", "mean_sqrt_len", "cls", "max", "last", "weighted_mean", "gem", "attention")

_SMALLEST = 1e-6  # the lower bound of values in GeM, whose root has a gradient there


class Pooling(nn.Module):
    """Pools the tokens of each item, which are packed without padding.

    - `mean`, `cls` (the first token), `max`: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084
    - `mean_sqrt_len`: the sum, divided by the root of the number of tokens
    - `last`: the last token; for decoders, where it is the only one that attends to all others
    - `weighted_mean`: the i-th token has weight i (Muennighoff 2022, https://arxiv.org/abs/2202.08904)
    - `gem`: the p-th root of the mean of p-th powers of the positive values, with a learned p, initially 3 (Radenovic
      et al. 2018, https://arxiv.org/abs/1711.02512)
    - `attention`: weights from a learned vector, initially equal (Lin et al. 2017, https://arxiv.org/abs/1703.03130,
      with one hop and without its hidden layer)
    - several joined by `+`, as in `cls+mean`: their results are concatenated
    """

    def __init__(self, mode: str, width: int) -> None:
        super().__init__()
        self.mode, self.modes = mode, mode.split("+")
        if "gem" in self.modes:
            self.power = nn.Parameter(torch.tensor(3.0))
        if "attention" in self.modes:
            self.query_D = nn.Parameter(torch.zeros(width))

    def forward(self, tokens_TD: Tensor, packing: Packing) -> Tensor:
        """Return `(n, D)` in fp32 for tokens `(T, D)`; with M modes `(n, M * D)`."""
        tokens_TD = tokens_TD.float()
        return torch.cat([self._pool(mode, tokens_TD, packing) for mode in self.modes], dim=1)

    def _pool(self, mode: str, tokens_TD: Tensor, packing: Packing) -> Tensor:
        if mode == "cls":
            return tokens_TD[packing.bounds[:-1]]
        if mode == "last":
            return tokens_TD[packing.bounds[1:] - 1]
        if mode == "max":
            return _segment_reduce(tokens_TD, packing, "max")
        if mode == "gem":
            return _mean(tokens_TD.clamp(min=_SMALLEST) ** self.power, packing) ** (1 / self.power)
        mean_nD = _mean(tokens_TD, packing, self._weights(mode, tokens_TD, packing))
        if mode == "mean_sqrt_len":
            return mean_nD * packing.bounds.diff().to(mean_nD).sqrt().unsqueeze(1)
        return mean_nD

    def _weights(self, mode: str, tokens_TD: Tensor, packing: Packing) -> Tensor | None:
        """Return the weight of each token in the mean, `(T,)`; `None` if all are equal."""
        if mode == "weighted_mean":
            return (packing.positions() + 1).to(tokens_TD)
        if mode == "attention":
            logits_T = tokens_TD @ self.query_D.to(tokens_TD)
            highest_n = _segment_reduce(logits_T.detach(), packing, "max")
            return (logits_T - highest_n[packing.owners()]).exp()
        return None


def _mean(tokens_TD: Tensor, packing: Packing, weight_T: Tensor | None = None) -> Tensor:
    """Return the weighted mean of the tokens of each item, `(n, D)`."""
    owners_T, items = packing.owners(), len(packing.lengths)
    if weight_T is None:
        weights_n1 = packing.bounds.diff().unsqueeze(1)
    else:
        tokens_TD = tokens_TD * weight_T.unsqueeze(1)
        weights_n1 = weight_T.new_zeros(items).index_add(0, owners_T, weight_T).unsqueeze(1)
    return tokens_TD.new_zeros(items, tokens_TD.shape[1]).index_add(0, owners_T, tokens_TD) / weights_n1


def _segment_reduce(values: Tensor, packing: Packing, reduce: str) -> Tensor:
    lengths_n = packing.bounds.diff().long()
    return torch.segment_reduce(
        values, reduce, lengths=lengths_n, unsafe=True
    )  # the check would synchronize with a GPU
