"""The fixtures of the tests of one run; and the build of torch that the device of these tests is made for."""

import sys

import pytest
import torch

from tests.training.conftest import start

__all__ = ["start"]


@pytest.fixture(autouse=True)
def _cpu_build() -> None:
    """Skip where torch has CUDA itself: the tests marked `gpu` run there."""
    if torch.cuda._is_compiled() or sys.platform != "linux":
        pytest.skip("needs a CPU build of torch on Linux")
