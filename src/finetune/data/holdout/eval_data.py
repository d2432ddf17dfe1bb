"""What can be evaluated on: judgments, scored pairs and labelled items, over the items of a data set.

N items, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from finetune.data.arrays import Ints
from finetune.data.holdout.judgments import Judgments
from finetune.data.holdout.split import Split, judge
from finetune.data.items import ABSENT, Items
from finetune.data.prepared import Prepared
from finetune.data.relations import Bools, Relations
from finetune.data.schema.layouts import Layout

Kind = Literal["judgments", "scored pairs", "labelled items"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of items, `left (P,)` and `right (P,)`, and how well they match, `score (P,)`; `name` is where from."""

    name: str
    left: Ints
    right: Ints
    score: npt.NDArray[np.float64]

    def counts(self) -> str:
        """Return how much there is to evaluate on, in words."""
        return f"{len(self.score):,} scored pairs"


@dataclass(frozen=True)
class LabelledItems:
    """Items `(N,)` and their classes `label (N,)`; `known (N,)` are those that a classifier may learn from."""

    name: str
    items: Ints
    label: Ints
    known: Bools

    def counts(self) -> str:
        """Return how much there is to evaluate on, in words."""
        return f"{len(self.items):,} labelled items"


What: TypeAlias = Judgments | ScoredPairs | LabelledItems


@dataclass(frozen=True)
class EvalData:
    """Items, what there is to be measured over them, at most one of each kind, and what is to be said.

    `problems` is a file with the bad rows that were left out.
    """

    items: Items
    found: tuple[What, ...]
    notes: list[str] = field(default_factory=list)
    problems: Path | None = None

    def of(self, kind: Kind) -> What | None:
        """Return what there is of one kind."""
        wanted = {"judgments": Judgments, "scored pairs": ScoredPairs, "labelled items": LabelledItems}[kind]
        return next((one for one in self.found if isinstance(one, wanted)), None)

    def kinds(self) -> list[Kind]:
        """Return what kinds there are."""
        return [kind for kind in KINDS if self.of(kind) is not None]


def hold_all(prepared: Prepared, notes: list[str], problems: Path | None = None) -> EvalData:
    """Return all that was read as held out, each kind of rows as what it says."""
    relations, name = prepared.relations, ", ".join(prepared.sources)
    scored = of_layouts(relations, prepared, ("scored pairs",))
    labelled = np.zeros(len(relations), bool) if relations.label is None else relations.label != ABSENT
    paired = ~scored & (relations.positive != ABSENT)
    found: list[What] = []
    if paired.any() or labelled.any():
        rows = np.flatnonzero(paired if paired.any() else labelled)
        found.append(_judgments(relations.take(rows), prepared, name))
    if scored.any():
        found.append(scored_pairs(relations.take(scored), name))
    if labelled.any():
        rows = np.flatnonzero(labelled)
        found.append(labelled_items(relations.take(rows), name))
    return EvalData(prepared.items, tuple(found), notes, problems)


def of_layouts(relations: Relations, prepared: Prepared, layouts: Sequence[Layout]) -> Bools:
    """Return which rows are from sources of these layouts."""
    source = np.zeros(len(relations), np.int64) if relations.source is None else relations.source
    return np.isin(source, [place for place, layout in enumerate(prepared.layouts) if layout in layouts])


def scored_pairs(relations: Relations, name: str) -> ScoredPairs:
    """Return scored pairs as what they are; each row has a score."""
    assert relations.score is not None
    return ScoredPairs(name, relations.anchor, relations.positive, relations.score[:, 0].astype(np.float64))


def labelled_items(relations: Relations, name: str, known: Bools | None = None) -> LabelledItems:
    """Return the items of labelled rows, each once; without `known` every second of a class may be learnt from."""
    assert relations.label is not None
    rows = np.sort(np.unique(relations.anchor, return_index=True)[1])
    label = relations.label[rows]
    if known is None:
        order = np.argsort(label, kind="stable")
        counts = np.bincount(label)
        counts = counts[counts > 0]
        known = np.empty(len(rows), bool)
        known[order] = (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)) % 2 == 0
    else:
        known = known[rows]
    return LabelledItems(name, relations.anchor[rows], label, known)


def _judgments(relations: Relations, prepared: Prepared, name: str) -> Judgments:
    """Return judgments of all rows: with their grades where they have some, else every known positive is right."""
    if relations.score is None:
        by: Literal["class", "group"] = "class" if (relations.positive == ABSENT).all() else "group"
        split = Split(np.empty(0, np.int64), np.arange(len(relations)), by)
        return judge(relations, split, name, prepared.known)
    table = np.column_stack([relations.positive, relations.negatives])
    query = np.repeat(relations.anchor, table.shape[1])
    document, grade = table.ravel(), relations.score.astype(np.float64).ravel()
    there = (document != ABSENT) & ~np.isnan(grade)
    queries, query_index = np.unique(query[there], return_inverse=True)
    corpus, document_index = np.unique(document[there], return_inverse=True)
    return Judgments(name, queries, corpus, query_index.reshape(-1), document_index.reshape(-1), grade[there])
