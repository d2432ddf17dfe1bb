"""Batches of all kinds for the losses' tests."""

from dataclasses import replace

import numpy as np
import torch

from finetune.data.batching.batches import Batches
from finetune.data.batching.mixing import BatchSettings
from finetune.data.items import ABSENT
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.tokens.token_store import Tokens
from tests.losses.test_infonce import batch_of, embeddings

__all__ = ["batch_of", "classed", "embeddings", "labelled", "scored"]


def scored(pairs, seed=0):
    """The batch of (left, right) rows, all items different, with random scores in steps of 0.1."""
    batch = batch_of(pairs)
    steps = torch.randint(0, 11, (len(pairs), 1), generator=torch.Generator().manual_seed(seed))
    return replace(batch, score_Bk=steps.double() / 10)


def labelled(labels):
    """A batch of items of these classes; items of one class are positives of each other."""
    count = len(labels)
    batch = batch_of([(i, (i + 1) % count) for i in range(count)])
    return replace(batch, known_E2=torch.empty(0, 2, dtype=torch.long), group_N=torch.tensor(labels))


def classed(labels):
    """The batch of labelled data: items of these classes, each in a row with another one of its class."""
    count = len(labels)
    label = np.array(labels, dtype=np.int64)
    relations = Relations(np.arange(count), np.full(count, ABSENT), label=label)
    empty = np.empty(0, np.int64)
    known = KnownPositives.of_pairs(empty, empty, count, group=label)
    tokens = Tokens(np.zeros(count, np.int32), np.arange(count + 1))
    return Batches(relations, tokens, known, BatchSettings(count), seed=0).batch(np.arange(count))
