"""What a development task is: its sources, and the rows that its module reads from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Source:
    """A file of a package registry, pinned by version and digest.

    `kind`: which client fetches it: pip, npm, apt (a package) or apt-index (the descriptions of all packages, in the
    language that `version` names).
    """

    kind: Literal["pip", "npm", "apt", "apt-index"]
    name: str
    version: str
    sha256: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.kind})"


@dataclass(frozen=True)
class Row:
    """A document, and a query that it answers (empty: it is only searched).

    Rows of the same `concept` are never split between training and test.
    """

    concept: str
    document: str
    query: str = ""


Rows = Callable[[list[Path]], Iterator[Row]]


@dataclass(frozen=True)
class Task:
    """A development task.

    `rows` reads the fetched files, in the order of `sources`. `split`: "concept", where training and test have no
    document in common, or "pairs", where pairs are drawn at random.
    """

    name: str
    summary: str
    query: str
    document: str
    language: str
    sources: tuple[Source, ...]
    rows: Rows
    split: Literal["concept", "pairs"] = "concept"
    test_share: float = 0.2
    most_queries: int = 1000
    most_documents: int = 10_000  # evaluated in about a minute on two cores
