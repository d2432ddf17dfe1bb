"""The same negatives as `mine_hard_negatives` of sentence-transformers, where the rules are the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from sentence_transformers.util import mine_hard_negatives

from finetune.data.items import ABSENT
from finetune.mining.dense import Dense
from tests.mining.made import Vectors, items_of, mined, pairs, settings_of

PAIRS = 40


class Controlled:
    """What `mine_hard_negatives` asks of a model, with given vectors."""

    device = torch.device("cpu")
    model_card_data = SimpleNamespace(base_model=None)

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        return self.table[[int(text.split()[-1]) for text in texts]]

    encode_document = encode_query

    def similarity(self, a: Any, b: Any) -> torch.Tensor:
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a: Any, b: Any) -> torch.Tensor:
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"max_share_of_positive": 0.95}, {"relative_margin": 0.05}),
        ({"margin": 0.1}, {"absolute_margin": 0.1}),
        ({"max_score": 0.6, "min_score": 0.2}, {"max_score": 0.6, "min_score": 0.2}),
        ({"max_share_of_positive": 0.8, "margin": 0.05}, {"relative_margin": 0.2, "absolute_margin": 0.05}),
    ],
    ids=["range", "relative margin", "absolute margin", "scores", "both margins"],
)
def test_negatives_are_those_of_sentence_transformers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    random = np.random.default_rng(5)
    table = random.normal(size=(2 * PAIRS, 8)).astype(np.float32)
    table[:PAIRS] += table[PAIRS:]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    texts = [f"text {i}" for i in range(2 * PAIRS)]
    data = datasets.Dataset.from_dict({"anchor": texts[:PAIRS], "positive": texts[PAIRS:]})
    peer = mine_hard_negatives(
        data,
        Controlled(table),
        num_negatives=3,
        range_min=0,
        range_max=PAIRS - 1,
        output_format="triplet",
        verbose=False,
        **theirs,
    )
    expected: dict[str, list[str]] = {text: [] for text in texts[:PAIRS]}
    for anchor, negative in zip(peer["anchor"], peer["negative"], strict=True):
        expected[anchor].append(negative)
    relations = pairs(range(PAIRS), range(PAIRS, 2 * PAIRS))
    chosen = settings_of(count=3, last_rank=PAIRS, **ours)
    found = mined(relations, items_of(texts), [Dense(Vectors(table))], chosen)
    names = [[texts[d] for d in row if d != ABSENT] for row in found.negatives.tolist()]
    assert names == list(expected.values())
    assert sum(map(len, names)) > 0
