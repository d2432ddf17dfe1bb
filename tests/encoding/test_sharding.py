"""What `fully_shard` of torch adds to a module is removed again, in one process."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_device_mesh, init_process_group
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from finetune.encoding.sharding import unshard


class Net(nn.Module):
    """Two layers, and weights outside of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.ones(4), persistent=False)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.scale + self.shift


@pytest.fixture
def mesh():
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    destroy_process_group()


def hooks(module):
    """Return how many hooks of each kind every module has."""
    return {
        (name, kind): len(value)
        for name, inner in module.named_modules()
        for kind, value in vars(inner).items()
        if kind.endswith("_hooks") and value
    }


def test_an_unsharded_module_has_nothing_left_of_fully_shard(mesh):
    torch.manual_seed(0)
    net, x = Net(), torch.randn(3, 4)
    net.layers[0].register_forward_hook(lambda *_: None)  # of someone else: it has to stay
    expected, state, before = net(x), copy.deepcopy(net.state_dict()), hooks(net)
    for layer in net.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    net(x).sum().backward()
    assert all(isinstance(weight, DTensor) for weight in net.parameters())
    assert hooks(net) != before

    unshard(net)

    assert (type(net), type(net.layers[0])) == (Net, nn.Linear)
    assert not any(isinstance(module, FSDPModule) for module in net.modules())
    assert not any(isinstance(weight, DTensor) for weight in net.parameters())
    assert hooks(net) == before
    assert {name: value.tolist() for name, value in net.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    assert torch.equal(net(x), expected)
    net.load_state_dict(state)  # after which a sharded module would shard its weights again
    assert torch.equal(net(x), expected)
    net(x).sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
