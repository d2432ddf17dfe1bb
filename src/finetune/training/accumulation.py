"""Gradient accumulation: the weight of each batch in one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Accumulation:
    """Makes the gradient of several batches the mean over all of their rows.

    For batches b with losses L_b, each a mean over rows of total weight w_b, the gradient of an optimizer step is
    that of sum(w_b L_b) / sum(w_b). Lightning divides every loss by `accumulate_grad_batches`, also where the last
    step of an epoch has fewer batches. So each loss is multiplied by w_b / w before the backward pass, with w the
    number of rows of the first batch, and the gradients are corrected once, after the last batch. If all batches
    have the same size and none is missing, both factors are exactly 1.
    """

    def __init__(self) -> None:
        self._reference = 0  # w
        self._total: float | Tensor = 0.0  # sum(w_b) so far

    def start_step(self) -> None:
        """Reset, at the first batch of an optimizer step."""
        self._reference, self._total = 0, 0.0

    def add(self, rows: int, weight: float | Tensor) -> float | Tensor:
        """Add a batch of `rows` rows and total weight `weight`, and return the factor for its loss."""
        self._reference = self._reference or max(rows, 1)
        self._total = self._total + weight
        return weight / self._reference

    def correct(self, parameters: Iterable[nn.Parameter], accumulate_grad_batches: int) -> None:
        """Turn the accumulated gradients into the mean over the rows; called after the last backward pass."""
        undivided = accumulate_grad_batches * self._reference
        factor: float | Tensor = 1.0
        if isinstance(self._total, Tensor):
            factor = undivided / self._total.clamp(min=1e-12)
        elif self._total:
            factor = undivided / self._total
        if isinstance(factor, float) and factor == 1:
            return
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
