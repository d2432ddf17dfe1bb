"""Data and retrievers for tests of mining: texts with planted relations, and vectors without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.items import Items
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.mining.mine import documents_of, mine
from finetune.mining.mined import Mined
from finetune.mining.retriever import Floats, Role
from finetune.mining.settings import Judge, Mining

NO_JUDGE = Judge(
    model=None,
    threshold=0.5,
    relabel=False,
    endpoint=None,
    key_variable="OPENAI_API_KEY",
    prompt="{anchor}{document}",
    concurrency=2,
    retries=2,
    timeout=5.0,
)


def settings_of(**changes: Any) -> Mining:
    """Return settings without any threshold, but for these."""
    values: dict[str, Any] = {
        "retrievers": ["own"],
        "count": 3,
        "first_rank": 1,
        "last_rank": 10,
        "pick": "top",
        "max_share_of_positive": None,
        "margin": None,
        "min_score": None,
        "max_score": None,
        "near_duplicates": False,
        "corpus": None,
        "index": "exact",
        "judge": NO_JUDGE,
        "every_n_steps": None,
    }
    return Mining(**values | changes)


class Vectors:
    """Vectors of items from a table, as an `Embed`; counts how many it has returned."""

    def __init__(self, table_ND: Floats) -> None:
        self.table, self.embedded = table_ND, 0

    def __call__(self, items_N: Ints, role: Role) -> Floats:
        self.embedded += len(items_N)
        return self.table[items_N]


def items_of(texts: Sequence[str]) -> Items:
    return Items.of_texts(pa.array(texts, pa.large_string()))


def mined(relations: Relations, items: Items, retrievers: Any, settings: Mining, seed: int = 0, **more: Any) -> Mined:
    known = KnownPositives.of_relations(relations, len(items))
    return mine(relations, items, known, documents_of(relations), retrievers, settings, seed, **more)


def pairs(anchor: Sequence[int], positive: Sequence[int]) -> Relations:
    return Relations(np.array(anchor), np.array(positive))


def counted(found: Mined) -> Mapping[str, int]:
    """Return how many candidates each filter left out, of those that left out any."""
    return {name: each.candidates for name, each in found.filtered.items() if each.candidates}
