"""A fixed mixture of the weights before and after the training, as the final model.

Source: WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903, with a fixed alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from finetune.config.types import Fraction


class Interpolate(Callback):
    """Makes `(1 - alpha) * pretrained + alpha * tuned` the final model; 1 is all tuned. Needs no evaluation."""

    # `finish` is called in reverse order: after those of the best checkpoint and the average, whose order is higher.
    order: ClassVar[int] = 0

    def __init__(self, alpha: Fraction = 0.75) -> None:
        self.alpha = alpha
        self._pretrained: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, module: nn.Module, stage: str) -> None:
        """Copy the weights of the pretrained model, before those of a checkpoint are loaded."""
        self._pretrained = copy_weights(module)

    def finish(self, trainer: Trainer, module: nn.Module) -> None:
        """Replace the final weights by the mixture."""
        set_weights(module, interpolate(self._pretrained, copy_weights(module), self.alpha))


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the trained weights in CPU memory, by name."""
    return {
        name: weight.detach().to("cpu", copy=True) for name, weight in module.named_parameters() if weight.requires_grad
    }


def interpolate(before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return `(1 - alpha) * before + alpha * after` of each weight, exact for an alpha of 0 and of 1."""
    return {name: torch.lerp(weight, after[name], alpha) for name, weight in before.items()}


def set_weights(module: nn.Module, new: Mapping[str, Tensor]) -> None:
    """Set the values of some weights, by name."""
    weights = dict(module.named_parameters())
    for name, weight in new.items():
        weights[name].data = weight.to(weights[name].data)
