"""`engine.compile` on a GPU."""

import copy
import shutil

import pytest
import torch

from finetune.encoding.engine import Engine
from finetune.models.text import TextEncoder
from tests.gpu.test_step import TOLERANCE, difference, step

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.bfloat16, None], ids=["bf16", "fp32"])
def test_a_compiled_encoder_computes_the_same(tiny_model, batch, device, dtype):
    plain = TextEncoder(str(tiny_model), dropout=0.0).train().to(device)
    compiled = copy.deepcopy(plain)
    compiled.compile_backbone(device)
    # Not recomputed: one compilation of the forward pass, one of the backward pass.
    loss, gradient = step(compiled, batch, device, dtype, Engine(token_budget=256, activation_mb=100))
    expected_loss, expected = step(plain, batch, device, dtype)
    assert difference(loss, expected_loss) <= TOLERANCE[dtype][0]
    assert difference(gradient, expected) <= TOLERANCE[dtype][1]
