"""Learning-rate schedules: the fraction of the peak learning rate at each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from finetune.config.types import CountFromZero, Fraction, NotNegative, Positive, PositiveFraction, PositiveInt


@dataclass(frozen=True)
class Constant:
    """Rises over the warm-up, then stays the same."""

    warmup: Fraction = 0.1

    def factor(self, step: int, total: int) -> float:
        """Return the fraction of the peak for 0-based optimizer step `step` of `total`.

        The first step has a rate above zero, and the last step of the warm-up has the peak.
        """
        warmup_steps = math.ceil(self.warmup * total)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return self.after_warmup((step + 1 - warmup_steps) / max(1, total - warmup_steps + 1))

    def after_warmup(self, progress: float) -> float:
        """Return the fraction of the peak at `progress` (0 to 1) of the steps after the warm-up."""
        return 1.0

    def watch(self, loss: Callable[[], Tensor], step: int, total: int) -> None:
        """Receive each batch's loss, of step `step`; most schedules do not depend on it, and do not call `loss`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as plain numbers; most schedules have none."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""


@dataclass(frozen=True)
class Linear(Constant):
    """Rises over the warm-up, then falls linearly to zero."""

    def after_warmup(self, progress: float) -> float:
        """Return the value of a line from 1 to 0."""
        return 1.0 - progress


@dataclass(frozen=True)
class Cosine(Constant):
    """Rises over the warm-up, then falls along half a cosine to `floor`.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts.
    """

    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return the value of half a cosine from 1 to `floor`."""
        return _above(self.floor, _half_cosine(progress))


@dataclass(frozen=True)
class CosineRestarts(Constant):
    """Rises over the warm-up, then falls along half a cosine `cycles` times, each from `decay` times the last peak.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, with cycles of the same length.
    """

    cycles: PositiveInt = 3
    decay: PositiveFraction = 1.0
    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return the value of the current cycle."""
        within, cycle = math.modf(progress * self.cycles)
        return _above(self.floor, self.decay**cycle * _half_cosine(within))


@dataclass(frozen=True)
class Polynomial(Constant):
    """Rises over the warm-up, then falls as a power of the fraction of remaining steps, to `floor`.

    Source: Chen et al. 2018, https://arxiv.org/abs/1606.00915, the "poly" policy.
    """

    power: Positive = 2.0
    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return the value of a power of a line from 1 to 0, above `floor`."""
        return _above(self.floor, (1 - progress) ** self.power)


@dataclass(frozen=True)
class WarmupStableDecay(Constant):
    """Rises over the warm-up, stays the same, then falls to `floor` over the last `cooldown` of all steps.

    Source: Hägele et al. 2024, https://arxiv.org/abs/2405.18392, section 3; `sqrt` is their 1 - sqrt.
    """

    cooldown: Fraction = 0.2
    shape: Literal["sqrt", "linear", "cosine"] = "sqrt"
    floor: Fraction = 0.0

    def after_warmup(self, progress: float) -> float:
        """Return 1 up to the cool-down, then the value of its curve."""
        remaining = (1 - progress) * (1 - self.warmup)
        if remaining >= self.cooldown:
            return 1.0
        cooled = 1 - remaining / self.cooldown
        curves = {"sqrt": 1 - math.sqrt(cooled), "linear": 1 - cooled, "cosine": _half_cosine(cooled)}
        return _above(self.floor, curves[self.shape])


@dataclass(frozen=True)
class InverseSqrt(Constant):
    """Rises over the warm-up, then falls with the square root of the step, independent of the number of steps.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 3.
    """

    def factor(self, step: int, total: int) -> float:
        """Return the fraction of the peak; without a warm-up the first step has the peak."""
        warmup_steps = max(1, math.ceil(self.warmup * total))
        return min((step + 1) / warmup_steps, math.sqrt(warmup_steps / (step + 1)))


@dataclass
class _PlateauState:
    """The state of a `Plateau`; the names of the fields are those in checkpoints."""

    sum: float | Tensor = 0.0  # of the losses of the current window
    count: int = 0  # of the losses of the current window
    best: float = math.inf  # mean loss of a window
    bad: int = 0  # windows since the best one
    left: float = 1.0  # the current fraction of the peak


@dataclass(frozen=True)
class Plateau(Constant):
    """Rises over the warm-up, then falls by the factor `decay` when the training loss stops falling, down to `floor`.

    The mean loss of each `window` batches is compared with the best so far; it is better if it is lower by `threshold`
    times that. After more than `patience` windows without a better one the rate falls.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau, which gets one value per window.
    """

    window: PositiveInt = 20
    patience: CountFromZero = 2
    decay: PositiveFraction = 0.5
    threshold: NotNegative = 1e-3
    floor: Fraction = 0.0
    _state: _PlateauState = field(init=False, repr=False, compare=False, default_factory=_PlateauState)

    def after_warmup(self, progress: float) -> float:
        """Return the fraction of the peak after the decays so far."""
        return self._state.left

    def watch(self, loss: Callable[[], Tensor], step: int, total: int) -> None:
        """Add the loss of a batch; the sum stays on the device, and is read at the end of a window only."""
        state = self._state
        if step < math.ceil(self.warmup * total):
            return
        state.sum, state.count = state.sum + loss(), state.count + 1
        if state.count == self.window:
            self._compare(float(state.sum) / state.count)
            state.sum, state.count = 0.0, 0

    def _compare(self, mean: float) -> None:
        state = self._state
        # abs: a loss may be negative. The first window is compared with infinity, for which the difference is NaN.
        if state.best == math.inf or mean < state.best - self.threshold * abs(state.best):
            state.best, state.bad = mean, 0
            return
        state.bad += 1
        if state.bad > self.patience:
            state.left, state.bad = max(self.floor, state.left * self.decay), 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as plain numbers."""
        return {**asdict(self._state), "sum": float(self._state.sum)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        vars(self._state).update(state)


def _half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _above(floor: float, fraction: float) -> float:
    return floor + (1 - floor) * fraction
