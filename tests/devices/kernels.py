"""On the CPU, what only CUDA kernels compute: softmax from half precision to fp32.

The kernels of attention are in `tests/models/varlen_stand_in.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax(states: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """Do what `aten::_softmax` does, also in fp32 for numbers in half precision."""
    return torch.softmax(states.float() if half_to_float else states, dim)


def softmax_backward(gradient: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    """Do what `aten::_softmax_backward_data` does, also from fp32 to half precision."""
    return torch.ops.aten._softmax_backward_data(gradient, output, dim, output.dtype).to(input_dtype)


# By the name of the operator.
OPERATORS = {
    "aten::_softmax": softmax,
    "aten::_softmax_backward_data": softmax_backward,
    "aten::record_stream": lambda tensor, stream: None,
}
