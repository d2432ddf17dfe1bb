"""A loss per row is the same in chunks and in parts of several processes, and never needs its whole matrix."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.losses import per_row
from finetune.losses.infonce import InfoNCE
from finetune.losses.masks import index_mask, known_positive_mask
from tests.losses.test_infonce import ROWS, batch_of, embeddings


def value_and_gradient(loss, emb_ND, *arguments):
    emb_ND.grad = None
    value = loss(emb_ND, *arguments)
    value.backward()
    return value.detach(), emb_ND.grad.clone()


def weighted(batch, seed):
    weight = torch.rand(len(batch), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return replace(batch, weight_B=weight) if seed % 2 else batch


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 60), st.booleans(), st.integers(0, 2**16))
def test_chunks_change_nothing(given_rows, most, symmetric, seed):
    batch = weighted(batch_of(given_rows), seed)
    emb, loss = embeddings(batch, seed), InfoNCE(0.1, symmetric)
    whole = value_and_gradient(loss, emb, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_row, "_MAX_ENTRIES", most)
        chunked = value_and_gradient(loss, emb, batch)
    torch.testing.assert_close(chunked, whole)


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 12), st.booleans(), st.integers(0, 2**16))
def test_parts_of_processes_add_up(given_rows, world, symmetric, seed):
    """Some of them may have no rows."""
    batch = weighted(batch_of(given_rows), seed)
    emb, loss = embeddings(batch, seed), InfoNCE(0.1, symmetric)
    whole = value_and_gradient(loss, emb, batch)
    shares = [value_and_gradient(loss, emb, batch, rank, world) for rank in range(world)]
    torch.testing.assert_close(sum(value for value, _ in shares), whole[0])
    torch.testing.assert_close(sum(gradient for _, gradient in shares), whole[1])


@pytest.mark.slow
def test_a_large_batch_never_materializes_its_matrix(monkeypatch):
    """16 million entries at once are 64 MB; the matrix of these rows has 200 million."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    batch = batch_of([(i, 10_000 + i) for i in range(10_000)])
    emb = torch.nn.functional.normalize(torch.randn(20_000, 4), dim=1).requires_grad_()
    with Watch():
        InfoNCE(symmetric=False)(emb, batch).backward()
    assert max(sizes) <= per_row._MAX_ENTRIES + 20_000


def test_nothing_is_recomputed_where_one_chunk_is_enough(monkeypatch):
    monkeypatch.setattr(per_row, "checkpoint", lambda *_, **__: pytest.fail("recomputed"))
    batch = batch_of([(0, 3), (1, 4)])
    InfoNCE()(embeddings(batch), batch).backward()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=7), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_known_positive_mask_by_hand(sources, edges):
    batch = replace(
        batch_of([(i, 5 - i) for i in range(3)]), known_E2=torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    )
    expected = [[(source, item) in edges for item in range(6)] for source in sources]
    assert known_positive_mask(batch, torch.tensor(sources), 6).tolist() == expected


def test_minus_one_is_no_item():
    assert index_mask(torch.tensor([[2, -1], [0, 2]]), 4).tolist() == [True, False, True, False]
    assert not index_mask(torch.tensor([-1]), 4).any()


def test_a_process_without_rows_has_a_gradient():
    batch = batch_of([(0, 3), (1, 4)])
    emb = embeddings(batch)
    InfoNCE()(emb, batch, 3, 5).backward()
    assert np.array_equal(emb.grad, np.zeros_like(emb.detach()))
