"""Several processes share the exact search, and find what one process finds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import multiprocessing

from finetune.encoding.collectives import Collectives
from finetune.encoding.shared_search import shared_top_k
from finetune.errors import FinetuneError
from finetune.evaluation.search import top_k
from tests.encoding.searching import ITEMS, SEARCHES, embeddings, search_together


@pytest.fixture(scope="module")
def found(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("search")
    multiprocessing.spawn(search_together, (folder, tiny_model), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", [name for name, *_ in SEARCHES])
def test_two_processes_find_the_same_bit_by_bit(found, name: str) -> None:
    for together, alone in zip(found[0][name]["together"], found[0][name]["alone"], strict=True):
        assert (together.dtype, together.shape) == (alone.dtype, alone.shape)
        assert together.tobytes() == alone.tobytes()


def test_each_process_searches_for_its_share_of_the_queries(found) -> None:
    searched = {name: [each[name]["searched"] for each in found] for name, *_ in SEARCHES}
    assert searched["three blocks"] == searched["three blocks after a first pass"] == [256 + 188, 256]
    assert searched["equal scores"] == [256 + 88, 256]
    assert searched["fewer documents than hits"] == [256, 44]
    assert searched["one block"] == [256, 0]


def test_an_evaluation_by_two_processes_has_the_results_of_one(found) -> None:
    together, alone = found[0]["evaluation"]["together"], found[0]["evaluation"]["alone"]
    assert found[1]["evaluation"]["together"] == {}
    assert [*together] == ["retrieval", "classification"]
    for name, result in together.items():
        one, two = asdict(alone[name]), asdict(result)
        assert one.pop("seconds") > 0 < two.pop("seconds")
        np.testing.assert_equal(two, one)
    # The retrieval searches three times: in full, shortened and quantized embeddings.
    shares = [each["evaluation"]["searched"] for each in found]
    assert sum(shares) == 4 * ITEMS + 630
    assert min(shares) > 1000


def test_one_process_searches_alone() -> None:
    collectives = Collectives(torch.device("cpu"))
    queries, corpus = embeddings(300, 500, tied=False)
    for shared, alone in zip(shared_top_k(queries, corpus, 5, collectives), top_k(queries, corpus, 5), strict=True):
        np.testing.assert_array_equal(shared, alone)
    with pytest.raises(FinetuneError, match="1 of 300 query embeddings are not finite"):
        shared_top_k(np.where(np.arange(300)[:, None] == 7, np.nan, queries), corpus, 5, collectives)
