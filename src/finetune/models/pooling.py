"""From the embeddings of tokens (or of patches) to one embedding per item.

Shapes: n items, T tokens of all of them in a row, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.models.packing import Packing
from finetune.models.st_format.config import POOLING_WEIGHTS, StConfig

MODES = ("mean", "mean_sqrt_len", "cls", "max", "last", "weighted_mean", "gem", "attention")

_SMALLEST = 1e-6  # what GeM takes in place of anything smaller: a root of it has a gradient


class Pooling(nn.Module):
    """Pools the tokens of each item, and of it alone: nothing is padded.

    - `mean`, `cls` (the first token), `max`: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084
    - `mean_sqrt_len`: the sum, divided by the root of the number of tokens
    - `last`: the last token; for decoders, whose last alone has seen all
    - `weighted_mean`: the i-th token counts i times (Muennighoff 2022, https://arxiv.org/abs/2202.08904)
    - `gem`: the p-th root of the mean of p-th powers, p learned from 3 on, of what is positive (Radenovic et al. 2018,
      https://arxiv.org/abs/1711.02512)
    - `attention`: weights by a learned vector, equal at first (Lin et al. 2017, https://arxiv.org/abs/1703.03130, with
      one hop and without its hidden layer)
    - several joined by `+`, as `cls+mean`: their results one after the other
    """

    def __init__(self, mode: str, width: int) -> None:
        super().__init__()
        self.mode, self.modes = mode, mode.split("+")
        if "gem" in self.modes:
            self.power = nn.Parameter(torch.tensor(3.0))
        if "attention" in self.modes:
            self.query_D = nn.Parameter(torch.zeros(width))

    def forward(self, tokens_TD: Tensor, packing: Packing) -> Tensor:
        """Return `(n, D)` in fp32 of tokens `(T, D)`; of M modes `(n, M * D)`."""
        tokens_TD = tokens_TD.float()
        return torch.cat([self._pooled(mode, tokens_TD, packing) for mode in self.modes], dim=1)

    def _pooled(self, mode: str, tokens_TD: Tensor, packing: Packing) -> Tensor:
        if mode in ("cls", "last"):
            return tokens_TD[packing.bounds[:-1] if mode == "cls" else packing.bounds[1:] - 1]
        if mode == "max":
            return _segments(tokens_TD, packing, "max")
        if mode == "gem":
            return _mean(tokens_TD.clamp(min=_SMALLEST) ** self.power, packing) ** (1 / self.power)
        mean_nD = _mean(tokens_TD, packing, self._weights(mode, tokens_TD, packing))
        if mode == "mean_sqrt_len":
            return mean_nD * packing.bounds.diff().to(mean_nD).sqrt().unsqueeze(1)
        return mean_nD

    def _weights(self, mode: str, tokens_TD: Tensor, packing: Packing) -> Tensor | None:
        """Return how much each token counts in the mean, `(T,)`; `None` if all count the same."""
        if mode == "weighted_mean":
            return (packing.positions() + 1).to(tokens_TD)
        if mode == "attention":
            logits_T = tokens_TD @ self.query_D.to(tokens_TD)
            highest_n = _segments(logits_T.detach(), packing, "max")
            return (logits_T - highest_n[packing.owners()]).exp()
        return None


def load_pooling(mode: str, width: int, found: StConfig) -> Pooling:
    """Return a pooling, with the weights that a folder has for it."""
    pooling = Pooling(mode, width)
    if mode == found.pooling and found.pooling_folder is not None and pooling.state_dict():
        from safetensors.torch import load_file

        pooling.load_state_dict(load_file(found.pooling_folder / POOLING_WEIGHTS))
    return pooling


def _mean(tokens_TD: Tensor, packing: Packing, weight_T: Tensor | None = None) -> Tensor:
    """Return the weighted mean of the tokens of each item, `(n, D)`."""
    owners_T, items = packing.owners(), len(packing.lengths)
    if weight_T is None:
        weights_n1 = packing.bounds.diff().unsqueeze(1)
    else:
        tokens_TD = tokens_TD * weight_T.unsqueeze(1)
        weights_n1 = weight_T.new_zeros(items).index_add(0, owners_T, weight_T).unsqueeze(1)
    return tokens_TD.new_zeros(items, tokens_TD.shape[1]).index_add(0, owners_T, tokens_TD) / weights_n1


def _segments(values: Tensor, packing: Packing, reduce: str) -> Tensor:
    lengths_n = packing.bounds.diff().long()
    return torch.segment_reduce(values, reduce, lengths=lengths_n, unsafe=True)  # checking waits for a GPU
