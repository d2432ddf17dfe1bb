"""Evaluation of a model during its training without any effect on the training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune import devices


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Restore weights, gradients, train modes and random states afterwards, bit by bit."""
    modes = [(inner, inner.training) for inner in module.modules()]
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [tensor.grad for tensor in tensors if tensor.grad is not None]
    # No copies: a conversion to fp32 for an evaluation creates new tensors, and these are the old ones.
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
    """Replace the values of some parameters, by name, and restore them afterwards."""
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
    """Return the states of all random number generators of this process, as plain data and tensors."""
    numpy: Any = np.random.get_state()
    _, keys, position, has_gauss, gauss = numpy
    version, numbers, next_gauss = random.getstate()
    return {
        **devices.of(device).random_state(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(numbers), next_gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set the states of all random number generators of this process."""
    devices.set_random_state(state)
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers), next_gauss))
