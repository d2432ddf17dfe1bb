"""Tasks of MTEB's kinds with their data in memory; tests name them by their classes, here or as a copy."""

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
    """What MTEB wants to know of a task."""
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
    """Three words and a number each, always the same."""
    random = np.random.default_rng(seed)
    return [f"{' '.join(random.choice(WORDS, 3))} {i}" for i in range(count)]


class Search(AbsTaskRetrieval):
    """20 queries, each with two right documents of 60."""

    metadata = about("Search", "Retrieval", "ndcg_at_10")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Make them."""
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
        """Make them."""
        columns = {"sentence1": texts(30, 3), "sentence2": texts(30, 4), "score": SCORES.tolist()}
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class Topics(AbsTaskClassification):
    """Texts of two classes, every second one of each."""

    metadata = about("Topics", "Classification", "accuracy")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Make them."""
        classes = [i % 2 for i in range(40)]
        made = [Dataset.from_dict({"text": texts(40, seed), "label": classes}) for seed in (0, 1)]
        self.dataset = DatasetDict(train=made[0], test=made[1])
        self.data_loaded = True


class Scripted(Scored):
    """Its data would be made by code from the hub."""

    metadata = about("Scripted", "STS", "cosine_spearman", trust_remote_code=True)
