"""Batches of all kinds for the losses' tests."""

from dataclasses import replace

import torch

from tests.losses.test_infonce import batch_of, embeddings

__all__ = ["batch_of", "embeddings", "labelled", "scored"]


def scored(pairs, seed=0):
    """The batch of (left, right) rows, all items different, with random scores in steps of 0.1."""
    batch = batch_of(pairs)
    steps = torch.randint(0, 11, (len(pairs), 1), generator=torch.Generator().manual_seed(seed))
    return replace(batch, score_Bk=steps.double() / 10)


def labelled(labels):
    """A batch of items of these classes; the classes alone say who is right for whom."""
    count = len(labels)
    batch = batch_of([(i, (i + 1) % count) for i in range(count)])
    return replace(batch, known_E2=torch.empty(0, 2, dtype=torch.long), group_N=torch.tensor(labels))
