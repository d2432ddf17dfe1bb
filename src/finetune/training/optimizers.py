"""Parameter groups of an optimizer; and Muon together with AdamW, which torch has only as two optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from finetune.config.types import BelowOne, NotNegative, Positive, PositiveFraction, Range


def hidden_weights(encoder: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of an encoder that map one layer to the next: all but its embedding tables."""
    tables: set[int] = set()
    for module in encoder.modules():
        if isinstance(module, nn.Embedding):
            tables.update(id(weight) for weight in module.parameters())
    return [weight for weight in encoder.parameters() if weight.ndim == 2 and id(weight) not in tables]


def parameter_groups(parameters: Iterable[nn.Parameter], lr_of: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
    """Return groups of the trained parameters with the same learning rate, and with or without weight decay.

    `lr_of` are the learning rates of those parameters that do not have the optimizer's. Vectors (biases and weights of
    norms) are not decayed, as that has no benefit.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for group_lr in [None, *sorted(set(lr_of.values()))]:
        for decays in (True, False):
            members = [p for p in trained if lr_of.get(p) == group_lr and (p.ndim > 1) == decays]
            if not members:
                continue
            group: dict[str, Any] = {"params": members}
            if not decays:
                group["weight_decay"] = 0.0
            if group_lr is not None:
                group["lr"] = group_lr
            groups.append(group)
    return groups


class MuonAndAdamW(Optimizer):
    """Muon for the `hidden` weights, which the run provides, and AdamW for all others, each with its learning rate.

    Muon orthogonalizes the momentum, so that all directions of a matrix are updated equally; this is not defined for
    embedding tables, vectors and scalars. If a group of `params` has its own learning rate, AdamW's is scaled in the
    same proportion. With `adjust_lr_fn=match_rms_adamw` updates are as large as AdamW's, and learning rates are
    comparable; with `original` they are those of the first paper, whose rates are some hundred times higher.

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
        by_muon, by_adamw = _split_groups(list(params), {id(weight) for weight in hidden}, adamw_lr / lr)
        self._muon = Muon(by_muon, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn)
        self._adamw = AdamW(by_adamw, adamw_lr, betas, eps, weight_decay, fused=fused)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {"lr": lr})
        self._share_groups_and_state()

    def _share_groups_and_state(self) -> None:
        """Let both optimizers use the groups and the state of this one, which schedules and checkpoints see."""
        count = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self._muon.state = self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step with both; `closure` computes loss and gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, from which torch creates new groups."""
        super().load_state_dict(state_dict)
        self._share_groups_and_state()


def _split_groups(
    groups: list[dict[str, Any]], hidden: set[int], ratio: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups of the hidden weights, and those of the others, whose learning rates are scaled by `ratio`."""
    by_muon = [{**group, "params": [p for p in group["params"] if id(p) in hidden]} for group in groups]
    by_adamw = [{**group, "params": [p for p in group["params"] if id(p) not in hidden]} for group in groups]
    for group in by_adamw:
        if "lr" in group:
            group["lr"] *= ratio
    return by_muon, by_adamw
