"""What is known about a task before any training: counts, lengths, overlap of words, BM25, the untouched model."""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripts.tasks.split import Split
from scripts.tasks.text import words

DEPTH = 10
MAX_LENGTH = 128  # tokens, the default of data.max_length


def describe(split: Split) -> dict[str, Any]:
    """Return counts, and means over the test pairs in words."""
    queries = list(dict.fromkeys(query for query, _ in split.test))
    used = {document for _, document in split.train}
    return {
        "train pairs": len(split.train),
        "train documents": len(used),
        "corpus": len(split.documents),
        "test queries": len(queries),
        "test pairs": len(split.test),
        "test documents also trained on": len(used & {document for _, document in split.test}),
        "words per query": round(mean(len(words(query)) for query in queries), 1),
        "words per document": round(mean(len(words(document)) for document in split.documents), 1),
        "overlap": round(mean(overlap(query, split.documents[document]) for query, document in split.test), 3),
    }


def overlap(query: str, document: str) -> float:
    """Return the share of the query's distinct words that occur in the document."""
    wanted = set(words(query))
    return len(wanted & set(words(document))) / max(1, len(wanted))


def bm25_ndcg(split: Split) -> float:
    """Return nDCG@10 of BM25 for the test queries."""
    from finetune.evaluation.bm25 import bm25

    queries, right = _judged(split)
    return ndcg(bm25(queries, split.documents, DEPTH), right)


def model_ndcg(split: Split, model: str) -> float:
    """Return nDCG@10 of a model for the test queries; in bfloat16, which is faster and differs by about 0.002."""
    from finetune.inference.load import get_model

    queries, right = _judged(split)
    with get_model(model, device="cpu", dtype="bfloat16", max_length=MAX_LENGTH) as embedder:
        hits = embedder.search(queries, split.documents, k=DEPTH)
    return ndcg(np.asarray(hits.indices), right)


def ndcg(hits_QK: NDArray[Any], right: list[set[int]]) -> float:
    """Return the mean nDCG@10 of binary judgments."""
    gain_K = 1 / np.log2(np.arange(DEPTH) + 2)
    values = []
    for hits, documents in zip(hits_QK, right, strict=True):
        found = np.array([int(hit) in documents for hit in hits[:DEPTH]], float)
        values.append(float((found * gain_K[: len(found)]).sum() / gain_K[: len(documents)].sum()))
    return mean(values)


def _judged(split: Split) -> tuple[list[str], list[set[int]]]:
    right: dict[str, set[int]] = {}
    for query, document in split.test:
        right.setdefault(query, set()).add(document)
    return list(right), list(right.values())
