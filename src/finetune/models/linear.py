"""Linear layers in fp32 without gradients, by the faster of the two libraries that torch has for them.

On a CPU torch multiplies fp32 matrices by MKL, which uses AVX-512 on Intel's processors only: on a core of an AMD EPYC
of 2025 it reaches 105 GFLOP/s, and oneDNN, which torch uses for other precisions, 245. Both sum in fp32.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


@functools.cache
def prefers_onednn() -> bool:
    """Return whether oneDNN multiplies fp32 matrices faster than MKL on this processor.

    It depends on the processor alone, so that all processes on a machine compute the same bytes.
    """
    processor = torch.cpu.get_capabilities()
    has_op = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_op and bool(processor.get("avx512_f")) and str(processor.get("cpu_name")).startswith("AMD")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weight.T + bias`, as `nn.functional.linear`, without a graph for the backward pass."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and prefers_onednn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found
    return nn.functional.linear(x, weight, bias)


class FastLinear(nn.Linear):
    """`nn.Linear` that computes by `linear` where no gradients are needed."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `(..., outputs)` of `(..., inputs)`."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(input.device.type) or not input.numel():
            return super().forward(input)
        return linear(input, self.weight, self.bias)


def speed_up_linears(model: nn.Module) -> None:
    """Let all plain linear layers of a model compute by `FastLinear`; only their class changes."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
