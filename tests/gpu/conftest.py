"""The device of these tests, and runs on it.

Without a GPU they are skipped. `FINETUNE_TEST_DEVICE=cpu` runs them on the CPU, which tests the tests; with `cuda` a
missing GPU is a failure.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from finetune.data.batching.batches import Batches
from finetune.data.batching.mixing import BatchSettings
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.tokens.token_store import Tokens
from finetune.training.fit import fit
from tests.training.conftest import start

__all__ = ["start"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device to compare with the CPU."""
    asked, there = os.environ.get("FINETUNE_TEST_DEVICE"), torch.cuda.is_available()
    if asked not in (None, "cpu", "cuda"):
        pytest.fail(f"FINETUNE_TEST_DEVICE is cpu or cuda, not {asked}")
    if asked == "cuda" and not there:
        pytest.fail("FINETUNE_TEST_DEVICE=cuda, and torch finds no GPU")
    if asked is None and not there:
        pytest.skip("no GPU; FINETUNE_TEST_DEVICE=cpu runs these tests on the CPU")
    return torch.device(asked or "cuda")


@pytest.fixture
def run_on(start):
    """Train on a device from checked settings; returns the run directory."""

    def run(where, name, *more):
        cfg, dataset, directory = start(name, *more, f"trainer.accelerator={accelerator(where)}")
        fit(cfg, dataset, directory)
        return directory

    return run


@pytest.fixture(scope="session")
def batch():
    """32 pairs of texts of 2 to 40 tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 41, 64)
    tokens = Tokens(random.integers(4, 60, lengths.sum()).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    places = np.arange(64).reshape(-1, 2)
    relations = Relations(places[:, 0], places[:, 1])
    known = KnownPositives.of_relations(relations, 64)
    return Batches(relations, tokens, known, BatchSettings(32), 0).batch(np.arange(32))


def accelerator(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else "cpu"


def losses(run) -> list[float]:
    return [row["loss"] for row in rows(run) if "loss" in row]


def rows(run) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
