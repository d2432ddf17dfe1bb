"""Every optimizer on the device: a step does not wait, and changes the weights as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import finetune.conf
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from finetune.config.build import build_offered
from finetune.training.optimizers import hidden_weights, parameter_groups
from tests.devices.fake_cuda import CUDA, FakeCuda

CONFIGS = {file.stem: file for folder in finetune.conf.__path__ for file in Path(folder).glob("optimizer/*.yaml")}
WAITS = {"adafactor": "torch reads the norm of every weight and of its update"}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4))


def steps(module: nn.Module, optimizer: Any, ids: torch.Tensor) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        (module(ids) * torch.arange(4, device=ids.device)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()


def build(name: str, module: nn.Module) -> Any:
    settings = OmegaConf.create({"optimizer": OmegaConf.load(CONFIGS[name])}).optimizer
    groups = parameter_groups(module.parameters(), {})
    return build_offered(settings, "optimizer", {"hidden": hidden_weights(module)}, params=groups)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_optimizer_has_the_numbers_of_the_cpu_and_does_not_wait(name):
    expected, ids = model(), torch.tensor([0, 2, 2, 6])
    steps(expected, build(name, expected), ids)
    module = model()
    with FakeCuda.active() as cuda:
        module.to(CUDA)
        optimizer, ids = build(name, module), ids.to(CUDA)
        steps(module, optimizer, ids)  # the first step makes the state
        weights = {key: weight.host.clone() for key, weight in module.state_dict().items()}
        with cuda.recording() as syncs:
            steps(module, optimizer, ids)
    assert bool(syncs) == (name in WAITS)
    for key, weight in expected.state_dict().items():
        torch.testing.assert_close(weights[key], weight, rtol=1e-4, atol=1e-6, msg=key)
