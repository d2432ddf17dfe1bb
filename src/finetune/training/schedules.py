"""Learning-rate schedules: the share of the peak learning rate at each optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.config.types import Fraction


@dataclass(frozen=True)
class Constant:
    """Up over the warm-up, then unchanged."""

    warmup: Fraction = 0.1

    def factor(self, step: int, total: int) -> float:
        """Return the share of the peak for 0-based optimizer step `step` of `total`.

        The first step is not lost to a rate of zero, and the peak is reached with the warm-up's last step.
        """
        warmup_steps = math.ceil(self.warmup * total)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return self.after_warmup((step + 1 - warmup_steps) / max(1, total - warmup_steps + 1))

    def after_warmup(self, progress: float) -> float:
        """Return the share of the peak at `progress` (0 to 1) of the steps after the warm-up."""
        return 1.0


@dataclass(frozen=True)
class Linear(Constant):
    """Up over the warm-up, then straight down towards zero."""

    def after_warmup(self, progress: float) -> float:
        """Return what is left of a straight line from 1 to 0."""
        return 1.0 - progress


@dataclass(frozen=True)
class Cosine(Constant):
    """Up over the warm-up, then down along half a cosine to `floor`.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts.
    """

    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return what is left of half a cosine from 1 to `floor`."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
