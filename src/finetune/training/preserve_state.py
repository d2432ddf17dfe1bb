"""Looking at a model in the midst of its training without changing what the training computes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Take back, bit by bit, what is done inside to weights, gradients, modes and random states."""
    modes = [(inner, inner.training) for inner in module.modules()]
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [tensor.grad for tensor in tensors if tensor.grad is not None]
    # What is made fp32 for an evaluation is another tensor; what stays is the same one, and nothing is copied.
    data = [(tensor, tensor.data) for tensor in tensors]
    device = next(module.parameters()).device
    state = random_state(device)
    try:
        yield
    finally:
        for tensor, before in data:
            tensor.data = before
        for inner, mode in modes:
            inner.training = mode
        set_random_state(state)


@contextmanager
def with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other values into some parameters, by name, and the old ones back in the end."""
    parameters = dict(module.named_parameters())
    before = {name: parameters[name].data for name in weights}
    try:
        for name, value in weights.items():
            parameters[name].data = value.to(before[name])
        yield
    finally:
        for name, value in before.items():
            parameters[name].data = value


def random_state(device: torch.device) -> dict[str, Any]:
    """Return where all random numbers of this process stand, as plain data and tensors."""
    numpy: Any = np.random.get_state()
    _, keys, place, has_gauss, gauss = numpy
    version, numbers, left = random.getstate()
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), int(place), int(has_gauss), float(gauss)],
        "python": [version, list(numbers), left],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on with the random numbers where `state` says."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, left = state["python"]
    random.setstate((version, tuple(numbers), left))
