"""One training step on a GPU: loss and gradients of the CPU, of padded texts, and without waiting for the device."""

import contextlib
import copy

import numpy as np
import pytest
import torch

from finetune.encoding.engine import Engine
from finetune.losses.infonce import InfoNCE
from finetune.models import text
from finetune.models.text import TextEncoder
from tests.models.tiny import tiny

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
# Largest relative difference of the loss and of the gradient (as one vector) from those of the CPU in fp32. Half
# precision has 8 (bf16) and 11 bits (fp16); the loss divides by a temperature of 0.05.
TOLERANCE = {None: (1e-5, 1e-4), torch.bfloat16: (3e-2, 1e-1), torch.float16: (5e-3, 2e-2)}
SCALE = 2.0**10  # of the loss in fp16, whose smallest gradients would be zero


@pytest.fixture(scope="module", params=["bert", "modernbert", "qwen3", "mpnet"])
def encoder(request, tmp_path_factory):
    """A tiny text encoder without dropout: packed with heads of 16 dimensions, and MPNet, which pads."""
    folder = tiny(request.param, tmp_path_factory.mktemp("models") / request.param)
    dropout = None if request.param == "qwen3" else 0.0
    return TextEncoder(str(folder), dropout=dropout).train()


def step(encoder, batch, device, dtype=None, engine=None):
    """Return the loss and the gradient, as one vector in fp32 on the CPU."""
    encoder.zero_grad()
    batch, engine = batch.to(device), engine or Engine(token_budget=256, activation_mb=0)
    scale = SCALE if dtype is torch.float16 else 1.0
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        emb_ND = engine.encode(encoder, batch.ids_T, np.array(batch.lengths_cpu))
    loss = InfoNCE(0.05)(emb_ND.float(), batch)
    (loss * scale).backward()
    gradients = [p.grad.flatten().float() / scale for p in encoder.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(gradients)


def difference(found, expected):
    """Return the norm of the difference, relative to that of the expected."""
    found, expected = found.cpu().double(), expected.cpu().double()
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16", "fp16"])
def test_loss_and_gradients_equal_those_of_the_cpu(encoder, batch, device, dtype):
    expected_loss, expected = step(encoder, batch, CPU)
    loss, gradient = step(copy.deepcopy(encoder).to(device), batch, device, dtype)
    assert difference(loss, expected_loss) <= TOLERANCE[dtype][0]
    assert difference(gradient, expected) <= TOLERANCE[dtype][1]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_packed_texts_equal_padded_ones(kind, batch, device, dtype, tmp_path, monkeypatch):
    folder = str(tiny(kind, tmp_path / kind))
    packed = TextEncoder(folder, dropout=0.0).train().to(device)
    monkeypatch.setattr(text, "pack_backbone", lambda *_: None)
    padded = TextEncoder(folder, dropout=0.0).train().to(device)
    assert packed.packs and not padded.packs
    expected_loss, expected = step(padded, batch, device, dtype)
    loss, gradient = step(packed, batch, device, dtype)
    assert difference(loss, expected_loss) <= TOLERANCE[dtype][0]
    assert difference(gradient, expected) <= TOLERANCE[dtype][1]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_step_does_not_wait_for_the_device(encoder, batch, device, dtype):
    encoder = copy.deepcopy(encoder).to(device)
    engine = Engine(token_budget=256, activation_mb=1)
    step(encoder, batch, device, dtype, engine)  # finds the budget
    encoder.zero_grad()
    on_device = batch.to(device)
    with errors_on_synchronization(device):
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            emb_ND = engine.encode(encoder, on_device.ids_T, np.array(batch.lengths_cpu))
        InfoNCE(0.05)(emb_ND.float(), on_device).backward()


@contextlib.contextmanager
def errors_on_synchronization(device):
    """Raise where torch waits for a GPU; a CPU has nothing to wait for."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
