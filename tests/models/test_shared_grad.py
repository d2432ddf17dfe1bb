"""One gradient of the token table for all lookups of a step, equal to the sum of theirs."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from finetune.models.shared_grad import SharedGradEmbedding

IDS = [torch.tensor([3, 1, 3]), torch.tensor([0, 2]), torch.tensor([4, 3, 0, 1])]


def table(**more):
    torch.manual_seed(0)
    return nn.Embedding(6, 4, **more)


def backward(lookup, weight, call=lambda lookup, ids: lookup(ids)):
    directions = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    rows = torch.cat([call(lookup, ids) for ids in IDS])
    (rows * directions + rows**2).sum().backward()
    return weight.grad


def test_the_gradient_is_that_of_plain_lookups():
    plain, ours = table(padding_idx=1), table(padding_idx=1)
    torch.testing.assert_close(backward(SharedGradEmbedding(ours), ours.weight), backward(plain, plain.weight))


def test_recomputed_lookups_count_once():
    plain, ours = table(), table()
    gradient = backward(
        SharedGradEmbedding(ours),
        ours.weight,
        lambda lookup, ids: checkpoint(lambda: lookup(ids) * 1.0, use_reentrant=False),
    )
    torch.testing.assert_close(gradient, backward(plain, plain.weight))


def test_steps_add_up_as_gradients_do():
    plain, ours = table(), table()
    for _ in range(2):
        expected, gradient = backward(plain, plain.weight), backward(SharedGradEmbedding(ours), ours.weight)
    torch.testing.assert_close(gradient, expected)


def test_a_frozen_table_gets_none():
    frozen = table().requires_grad_(False)
    rows = SharedGradEmbedding(frozen)(IDS[0])
    assert not rows.requires_grad


def test_a_modified_table_is_called_directly():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 3

    scaled = Scaled(6, 4)
    torch.testing.assert_close(SharedGradEmbedding(scaled)(IDS[0]), scaled(IDS[0]))


def test_an_aborted_step_leaves_no_gradient():
    ours, plain = table(), table()
    lookup = SharedGradEmbedding(ours)
    lookup(IDS[0]).sum().backward()  # as after an out-of-memory error
    ours.zero_grad()
    torch.testing.assert_close(backward(SharedGradEmbedding(ours), ours.weight), backward(plain, plain.weight))


def test_two_lookups_in_one_graph_do_not_share_a_buffer():
    ours, plain = table(), table()
    backward(SharedGradEmbedding(ours), ours.weight)  # the buffer exists
    ours.zero_grad()
    both = [SharedGradEmbedding(ours), SharedGradEmbedding(ours)]
    for lookups, weight in ((both, ours.weight), ([plain, plain], plain.weight)):
        (lookups[0](IDS[0]).sum() + (lookups[1](IDS[2]) * 3).sum()).backward()
        assert weight.grad is not None
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


def test_a_hooked_table_is_called_directly():
    ours, called = table(), []
    ours.register_forward_pre_hook(lambda *_: called.append(1))
    SharedGradEmbedding(ours)(IDS[0])
    assert called
