"""Learning-rate schedules: the share of the peak learning rate at each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from finetune.config.types import CountFromZero, Fraction, NotNegative, Positive, PositiveFraction, PositiveInt


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

    def watch(self, loss: Callable[[], Tensor], step: int, total: int) -> None:
        """Be told of each batch, of step `step`; most schedules know their way, and never ask for its loss."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep: plain numbers, none for most."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


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
        return _above(self.floor, _half_cosine(progress))


@dataclass(frozen=True)
class CosineRestarts(Constant):
    """Up over the warm-up, then down along half a cosine `cycles` times; each begins at `decay` times the one before.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, with cycles of the same length.
    """

    cycles: PositiveInt = 3
    decay: PositiveFraction = 1.0
    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return what is left of the cycle under way."""
        within, cycle = math.modf(progress * self.cycles)
        return _above(self.floor, self.decay**cycle * _half_cosine(within))


@dataclass(frozen=True)
class Polynomial(Constant):
    """Up over the warm-up, then down as a power of the share of steps that are left, to `floor`.

    Source: Chen et al. 2018, https://arxiv.org/abs/1606.00915, the "poly" policy.
    """

    power: Positive = 2.0
    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return what is left of a power of a straight line from 1 to 0, above `floor`."""
        return _above(self.floor, (1 - progress) ** self.power)


@dataclass(frozen=True)
class WarmupStableDecay(Constant):
    """Up over the warm-up, unchanged, then down to `floor` over the last `cooldown` of all steps.

    Source: Hägele et al. 2024, https://arxiv.org/abs/2405.18392, section 3; `sqrt` is their 1 - sqrt.
    """

    cooldown: Fraction = 0.2
    shape: Literal["sqrt", "linear", "cosine"] = "sqrt"
    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return 1 up to the cool-down, then what is left of its curve."""
        remaining = (1 - progress) * (1 - self.warmup)
        if remaining >= self.cooldown:
            return 1.0
        cooled = 1 - remaining / self.cooldown
        curves = {"sqrt": 1 - math.sqrt(cooled), "linear": 1 - cooled, "cosine": _half_cosine(cooled)}
        return _above(self.floor, curves[self.shape])


@dataclass(frozen=True)
class InverseSqrt(Constant):
    """Up over the warm-up, then down with the square root of the step, whatever the number of steps.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 3.
    """

    def factor(self, step: int, total: int) -> float:
        """Return the share of the peak; without a warm-up the first step has the peak."""
        warmup_steps = max(1, math.ceil(self.warmup * total))
        return min((step + 1) / warmup_steps, math.sqrt(warmup_steps / (step + 1)))


@dataclass
class _Seen:
    """What a `Plateau` has seen: the losses of the window under way, the best mean, windows since, what is left."""

    sum: float | Tensor = 0.0
    count: int = 0
    best: float = math.inf
    bad: int = 0
    left: float = 1.0


@dataclass(frozen=True)
class Plateau(Constant):
    """Up over the warm-up, then times `decay` whenever the training loss has stopped to fall, down to `floor`.

    The mean loss of each `window` batches is compared with the best so far; it is better if it is lower by `threshold`
    times that. After more than `patience` windows without a better one the rate falls.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau, which sees one value a window.
    """

    window: PositiveInt = 20
    patience: CountFromZero = 2
    decay: PositiveFraction = 0.5
    threshold: NotNegative = 1e-3
    floor: Fraction = 0.0
    _seen: _Seen = field(init=False, repr=False, compare=False, default_factory=_Seen)

    def after_warmup(self, progress: float) -> float:
        """Return what is left after the falls so far."""
        return self._seen.left

    def watch(self, loss: Callable[[], Tensor], step: int, total: int) -> None:
        """Add the loss of a batch; one window in many is read, so that no other batch waits for the device."""
        seen = self._seen
        if step < math.ceil(self.warmup * total):
            return
        seen.sum, seen.count = seen.sum + loss(), seen.count + 1
        if seen.count == self.window:
            self._compare(float(seen.sum) / seen.count)
            seen.sum, seen.count = 0.0, 0

    def _compare(self, mean: float) -> None:
        seen = self._seen
        # A loss may be negative. Against the infinity of the first window the difference would be no number.
        if seen.best == math.inf or mean < seen.best - self.threshold * abs(seen.best):
            seen.best, seen.bad = mean, 0
            return
        seen.bad += 1
        if seen.bad > self.patience:
            seen.left, seen.bad = max(self.floor, seen.left * self.decay), 0

    def state_dict(self) -> dict[str, Any]:
        """Return all that was seen, as plain numbers."""
        return {**asdict(self._seen), "sum": float(self._seen.sum)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        vars(self._seen).update(state)


def _half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _above(floor: float, share: float) -> float:
    return floor + (1 - floor) * share
