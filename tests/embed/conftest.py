"""A tiny model and a corpus with repeated texts, for all tests of embedding a corpus."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import WORDS
from tests.models.test_folders import build

ROWS = 500


@pytest.fixture(scope="session")
def folder(tiny_model, tmp_path_factory):
    """A model with prompts in the layout of sentence-transformers."""
    prompts = {"prompts": {"query": "red ", "document": "tree "}}
    return build(tiny_model, tmp_path_factory.mktemp("embed") / "model", model=prompts)


@pytest.fixture(scope="session")
def table():
    """Rows of which about a third repeat a text of another shard or their own."""
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 9))) for _ in range(2 * ROWS // 3)]
    texts += [chosen.choice(texts) for _ in range(ROWS - len(texts))]
    chosen.shuffle(texts)
    return pa.table({"id": [f"d{row}" for row in range(ROWS)], "text": texts, "year": list(range(ROWS))})


@pytest.fixture(scope="session")
def corpus(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.parquet"
    pq.write_table(table, path)
    return path
