"""Custom MTEB tasks with their data in memory, which tests name by their classes, here or in a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

WORDS = ["red", "green", "blue", "small", "large", "old", "new", "cat", "dog", "bird", "house", "tree"]
SCORES = np.random.default_rng(2).random(30)
RIGHT = {f"q{i}": {f"d{i}": 1, f"d{i + 20}": 2} for i in range(20)}


def about(name: str, kind: Any, main_score: str, **more: Any) -> TaskMetadata:
    """Return the metadata of a task."""
    unknown = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")
    return TaskMetadata(
        **dict.fromkeys((*unknown, "sample_creation", "bibtex_citation")),
        name=name,
        description="Made up.",
        dataset={"path": "local", "revision": "1", **more},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
    )


def texts(count: int, seed: int) -> list[str]:
    """Return fixed texts of three words and a number."""
    random = np.random.default_rng(seed)
    return [f"{' '.join(random.choice(WORDS, 3))} {i}" for i in range(count)]


class Search(AbsTaskRetrieval):
    """20 queries with two right documents each, of 60 documents."""

    metadata = about("Search", "Retrieval", "ndcg_at_10")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Create the data."""
        corpus = [{"id": f"d{i}", "text": text, "title": ""} for i, text in enumerate(texts(60, 0))]
        queries = [{"id": f"q{i}", "text": text} for i, text in enumerate(texts(20, 1))]
        whole = {"corpus": Dataset.from_list(corpus), "queries": Dataset.from_list(queries)}
        self.dataset = {"default": {"test": whole | {"relevant_docs": RIGHT, "top_ranked": None}}}
        self.data_loaded = True


class Scored(AbsTaskSTS):
    """30 pairs with scores."""

    metadata = about("Scored", "STS", "cosine_spearman")
    max_score = 1

    def load_data(self, *_: Any, **__: Any) -> None:
        """Create the data."""
        columns = {"sentence1": texts(30, 3), "sentence2": texts(30, 4), "score": SCORES.tolist()}
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class Topics(AbsTaskClassification):
    """Texts of two alternating classes."""

    metadata = about("Topics", "Classification", "accuracy")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Create the data."""
        classes = [i % 2 for i in range(40)]
        made = [Dataset.from_dict({"text": texts(40, seed), "label": classes}) for seed in (0, 1)]
        self.dataset = DatasetDict(train=made[0], test=made[1])
        self.data_loaded = True


class Scripted(Scored):
    """Its data would need code from the hub."""

    metadata = about("Scripted", "STS", "cosine_spearman", trust_remote_code=True)
