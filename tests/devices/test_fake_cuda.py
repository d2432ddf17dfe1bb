"""The device of these tests itself: it has the values of the CPU, and sees what makes the host wait."""

import numpy as np
import pytest
import torch

from finetune import devices
from tests.devices.fake_cuda import CUDA, FakeCuda, MixedDevices


@pytest.fixture
def cuda():
    with FakeCuda.active() as mode:
        yield mode


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "float": lambda x: float(x.sum()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "copy_ to the CPU": lambda x: torch.empty(4, 4).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask as an index": lambda x: x[x > 0],
    "mask in an assignment": lambda x: x.__setitem__(x > 0, torch.ones(16, device=CUDA)[: int((x.host > 0).sum())]),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "bincount": lambda x: torch.bincount(x[0].long().abs()),
    "repeat_interleave": lambda x: x[0].repeat_interleave(x[0].long().abs()),
    "one_hot": lambda x: torch.nn.functional.one_hot(x[0].long().abs()),
    "segment_reduce": lambda x: torch.segment_reduce(x[0], "max", lengths=torch.full((2,), 2, device=CUDA)),
    "tensor from numbers": lambda x: torch.tensor([1.0, 2.0], device=CUDA),
    "as_tensor": lambda x: torch.as_tensor(1.0, device=CUDA),
    "pageable memory": lambda x: torch.ones(3).to(CUDA, non_blocking=True),
    "blocking copy": lambda x: torch.ones(3).pin_memory().to(CUDA),
    "index on the CPU": lambda x: x[torch.tensor([0, 1])],
    "list as an index": lambda x: x[[0, 1]],
    "synchronize": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_is_recorded(cuda, what):
    x = torch.arange(16.0, device=CUDA).view(4, 4) - 4
    with cuda.recording() as syncs:
        WAITS[what](x)
    assert syncs


def test_what_does_not_wait(cuda):
    x = torch.arange(16.0, device=CUDA).view(4, 4).requires_grad_()
    with cuda.recording() as syncs:
        index = devices.of(CUDA).upload(np.array([2, 0]))
        y = x[index] * 2.0 + torch.tensor(1.0)
        y = y.masked_fill(y > 3, 0).repeat_interleave(2, 0)
        with torch.autocast("cuda", torch.bfloat16):
            z = y @ x
        z.float().sum().backward()
    assert syncs == []
    assert cuda.copies == 1
    assert z.dtype == torch.bfloat16 and x.grad.device == CUDA


def test_mixed_devices_raise(cuda):
    x = torch.ones(3, device=CUDA)
    for mix in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(3)]), lambda: torch.ones(3)[x.long()]):
        with pytest.raises(MixedDevices):
            mix()
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()


def test_values_are_those_of_the_cpu():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.GELU())
    x = torch.randn(5, 3)
    model(x).sum().backward()
    expected = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    with FakeCuda.active():
        model.to(CUDA)
        model(x.to(CUDA)).sum().backward()
        found = [weight.grad.host for weight in model.parameters()]
    torch.testing.assert_close(found, expected)


def test_torch_is_restored():
    with FakeCuda.active():
        assert torch.cuda.is_available() and torch.accelerator.current_accelerator().type == "cuda"
    assert not torch.cuda.is_available()
    assert torch.accelerator.current_accelerator() is None
    x = torch.ones(2, requires_grad=True)
    x.sum().backward()
