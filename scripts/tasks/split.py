"""Split the rows of a task into training and test, so that no evaluated document is trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scripts.tasks.task import Row, Task

from finetune.data.holdout.near_duplicates import find_near_duplicates
from finetune.data.holdout.text_normalization import normalize

AMBIGUOUS = 3  # a query with more documents than this is left out
LARGEST_GROUP = 0.02  # of the rows; larger groups of connected concepts are only trained on


@dataclass(frozen=True)
class Split:
    """Documents, and pairs (query, index of a document) for training and test."""

    documents: list[str]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]


def split(rows: Iterable[Row], task: Task) -> Split:
    """Return the rows split, the same each time."""
    rows = _without_easy(_limited(list(dict.fromkeys(rows)), task))
    documents = list(dict.fromkeys(row.document for row in rows))
    number = {document: i for i, document in enumerate(documents)}
    pairs = [row for row in rows if row.query]
    tested = _by_concept(rows, task) if task.split == "concept" else _by_pair(pairs, task)
    test = [(row.query, number[row.document]) for row in pairs if row in tested]
    train = [(row.query, number[row.document]) for row in pairs if row not in tested]
    if task.split == "concept":
        train = _without_near(train, test, documents)
    return Split(documents, train, test)


def _limited(rows: list[Row], task: Task) -> list[Row]:
    """Return the rows of so many concepts that there are at most `most_documents`."""
    documents: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        documents[row.concept].add(row.document)
    kept, count = set(), 0
    for concept in sorted(documents, key=lambda concept: _hash(task.name, "limit", concept)):
        count += len(documents[concept])
        if count > task.most_documents:
            break
        kept.add(concept)
    return [row for row in rows if row.concept in kept]


def _without_easy(rows: list[Row]) -> list[Row]:
    """Return the rows without queries that are part of their document, or have too many documents.

    A document whose queries are all left out is still searched.
    """
    queries = _normalized([row.query for row in rows])
    documents = _normalized([row.document for row in rows])
    answers: dict[str, set[str]] = defaultdict(set)
    for query, document in zip(queries, documents, strict=True):
        answers[query].add(document)
    kept = []
    for row, query, document in zip(rows, queries, documents, strict=True):
        if query in document or len(answers[query]) > AMBIGUOUS:
            kept.append(Row(row.concept, row.document))
        else:
            kept.append(row)
    return list(dict.fromkeys(kept))


def _by_concept(rows: list[Row], task: Task) -> set[Row]:
    """Return the rows to test on: whole groups of concepts that are connected by equal texts."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for group, row in zip(_connected(rows), rows, strict=True):
        if row.query:
            groups[group].append(row)
    pairs = sum(len(group) for group in groups.values())
    largest = max(10.0, LARGEST_GROUP * pairs)
    wanted = min(task.most_queries, round(task.test_share * pairs))
    tested: set[Row] = set()
    for group in sorted(groups, key=lambda group: _hash(task.name, group)):
        if len(groups[group]) <= largest and len(tested) + len(groups[group]) <= wanted:
            tested.update(groups[group])
    return tested


def _by_pair(pairs: list[Row], task: Task) -> set[Row]:
    wanted = min(task.most_queries, round(task.test_share * len(pairs)))
    queries = sorted({row.query for row in pairs}, key=lambda query: _hash(task.name, query))[:wanted]
    return {row for row in pairs if row.query in set(queries)}


def _connected(rows: list[Row]) -> list[str]:
    """Return the group of each row: concepts with an equal query or document, normalized, are one group."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = node = parent.setdefault(above, above)
        return node

    documents = _normalized([row.document for row in rows])
    queries = _normalized([row.query for row in rows])
    for row, document, query in zip(rows, documents, queries, strict=True):
        for text in filter(None, (f"d{document}", query and f"q{query}")):
            first, second = sorted((root(f"c{row.concept}"), root(text)))
            parent[second] = first
    return [root(f"c{row.concept}") for row in rows]


def _without_near(
    train: list[tuple[str, int]], test: list[tuple[str, int]], documents: list[str]
) -> list[tuple[str, int]]:
    """Return the training pairs of which neither text is nearly one of the test pairs."""
    near_query = _near([query for query, _ in train], [query for query, _ in test])
    near_document = _near([documents[i] for _, i in train], [documents[i] for _, i in test])
    return [pair for i, pair in enumerate(train) if i not in near_query and i not in near_document]


def _near(texts: list[str], tested: list[str]) -> set[int]:
    if not texts or not tested:
        return set()
    wanted = np.ones(len(texts), bool)
    return set(find_near_duplicates(_column(texts), wanted, _column(sorted(set(tested)))).text.tolist())


def _normalized(texts: list[str]) -> list[str]:
    normalized: list[str] = normalize(_column(texts)).to_pylist()
    return normalized


def _column(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
