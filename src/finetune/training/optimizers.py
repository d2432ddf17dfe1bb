"""Optimizers that torch has only in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from finetune.config.types import BelowOne, NotNegative, Positive, PositiveFraction, Range


def hidden_weights(encoder: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of an encoder that map one layer to the next: all but its tables of tokens and places."""
    tables = {
        id(weight) for part in encoder.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()
    }
    return [weight for weight in encoder.parameters() if weight.ndim == 2 and id(weight) not in tables]


class MuonAndAdamW(Optimizer):
    """Muon for the `hidden` weights, which the run gives, and AdamW for everything else, each with its learning rate.

    Muon steps along the momentum made orthogonal, so that all directions of a matrix move alike. For tables, vectors
    and scalars that means nothing. A group of `params` with a rate of its own has AdamW's in the same proportion.
    With `adjust_lr_fn=match_rms_adamw` steps are as large as AdamW's, and rates mean the same for both; with
    `original` they are those of the first paper, whose rates are some hundred times higher.

    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; sizes of steps: Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, section 2.2.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        hidden: Sequence[nn.Parameter],
        lr: PositiveFraction = 1e-4,
        adamw_lr: PositiveFraction = 1e-4,
        weight_decay: NotNegative = 0.01,
        momentum: BelowOne = 0.95,
        nesterov: bool = True,
        ns_steps: Annotated[int, Range(at_least=1, at_most=20)] = 5,
        adjust_lr_fn: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        betas: tuple[BelowOne, BelowOne] = (0.9, 0.999),
        eps: Positive = 1e-8,
        fused: bool | None = True,
    ) -> None:
        by_muon, by_adamw = _divided(list(params), {id(weight) for weight in hidden}, adamw_lr / lr)
        self._muon = Muon(by_muon, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn)
        self._adamw = AdamW(by_adamw, adamw_lr, betas, eps, weight_decay, fused=fused)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """Let the parts have the same groups and state as the whole, which schedules, clipping and checkpoints see."""
        count = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self._muon.state = self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with both; `closure` computes loss and gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; torch makes new groups of it."""
        super().load_state_dict(state_dict)
        self._share()


def _divided(
    groups: list[dict[str, Any]], hidden: set[int], ratio: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups of what is hidden, and those of the rest, whose own rates are times `ratio`."""
    ours = [{**group, "params": [p for p in group["params"] if id(p) in hidden]} for group in groups]
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in hidden]} for group in groups]
    for group in rest:
        if "lr" in group:
            group["lr"] *= ratio
    return ours, rest
