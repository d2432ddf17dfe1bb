"""Gradient accumulation: how much each batch of one optimizer step counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Accumulation:
    """Makes the gradient of several batches the mean over all of their rows.

    For batches b with losses L_b, each a mean over rows of total weight w_b, the gradient of an optimizer step is
    that of sum(w_b L_b) / sum(w_b). Lightning divides every loss by `accumulate_grad_batches`, also where the last
    step of an epoch has fewer batches. So each loss is multiplied by w_b / w before the backward pass, with w the
    number of rows of the first batch, and the gradients are corrected once, after the last batch. Where all batches
    are of one size and none is missing, both factors are exactly 1.
    """

    def __init__(self) -> None:
        self._reference, self._total = 0, 0.0  # type: int, float | Tensor

    def start_step(self) -> None:
        """Forget the batches of the previous optimizer step."""
        self._reference, self._total = 0, 0.0

    def add(self, rows: int, weight: float | Tensor) -> float | Tensor:
        """Count a batch of `rows` rows and return what its loss is to be multiplied by."""
        self._reference = self._reference or max(rows, 1)
        self._total = self._total + weight
        return weight / self._reference

    def correct(self, parameters: Iterable[nn.Parameter], accumulate_grad_batches: int) -> None:
        """Turn the accumulated gradients into the mean over the rows; to be called after the last backward pass."""
        factor: float | Tensor = accumulate_grad_batches * self._reference
        if isinstance(self._total, Tensor):
            factor = factor / self._total.clamp(min=1e-12)
        else:
            factor = factor / self._total if self._total else 1.0
        if isinstance(factor, float) and factor == 1:
            return
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
