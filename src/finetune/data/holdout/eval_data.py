"""Evaluation data: judgments, scored pairs and labelled items, over the items of a data set.

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
    """Pairs of items, `left (P,)` and `right (P,)`, and how well they match, `score (P,)`; `name` is their origin."""

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


AnyEvalData: TypeAlias = Judgments | ScoredPairs | LabelledItems


@dataclass(frozen=True)
class EvalData:
    """Items, and evaluation data over them, at most one of each kind; `notes` are sentences for the user.

    `problems` is a file that lists the bad rows that were left out.
    """

    items: Items
    found: tuple[AnyEvalData, ...]
    notes: list[str] = field(default_factory=list)
    problems: Path | None = None

    def of(self, kind: Kind) -> AnyEvalData | None:
        """Return the evaluation data of one kind, None if there is none."""
        wanted = {"judgments": Judgments, "scored pairs": ScoredPairs, "labelled items": LabelledItems}[kind]
        for data in self.found:
            if isinstance(data, wanted):
                return data
        return None

    def kinds(self) -> list[Kind]:
        """Return the kinds that there are."""
        return [kind for kind in KINDS if self.of(kind) is not None]


def all_as_eval_data(prepared: Prepared, notes: list[str], problems: Path | None = None) -> EvalData:
    """Return all rows that were read as evaluation data, by their kind."""
    relations, name = prepared.relations, ", ".join(prepared.sources)
    scored = of_layouts(relations, prepared, ("scored pairs",))
    paired = ~scored & (relations.positive != ABSENT)
    labelled = np.zeros(len(relations), bool)
    if relations.label is not None:
        labelled = relations.label != ABSENT
    found: list[AnyEvalData] = []
    if paired.any():
        found.append(_judgments(relations.take(np.flatnonzero(paired)), prepared, name))
    elif labelled.any():
        found.append(_judgments(relations.take(np.flatnonzero(labelled)), prepared, name))
    if scored.any():
        found.append(scored_pairs(relations.take(scored), name))
    if labelled.any():
        rows = np.flatnonzero(labelled)
        found.append(labelled_items(relations.take(rows), name))
    return EvalData(prepared.items, tuple(found), notes, problems)


def of_layouts(relations: Relations, prepared: Prepared, layouts: Sequence[Layout]) -> Bools:
    """Return which rows are from sources of these layouts."""
    wanted = [number for number, layout in enumerate(prepared.layouts) if layout in layouts]
    if relations.source is None:
        return np.full(len(relations), 0 in wanted)
    return np.isin(relations.source, wanted)


def scored_pairs(relations: Relations, name: str) -> ScoredPairs:
    """Return relations as scored pairs; each row must have a score."""
    assert relations.score is not None
    return ScoredPairs(name, relations.anchor, relations.positive, relations.score[:, 0].astype(np.float64))


def labelled_items(relations: Relations, name: str, known: Bools | None = None) -> LabelledItems:
    """Return the items of labelled rows, each once; without `known` every second of a class is known."""
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
    """Return judgments of all rows: with their grades if they have any, else every known positive is right."""
    if relations.score is None:
        by: Literal["class", "group"] = "group"
        if (relations.positive == ABSENT).all():
            by = "class"
        split = Split(np.empty(0, np.int64), np.arange(len(relations)), by)
        return judge(relations, split, name, prepared.known)
    table = np.column_stack([relations.positive, relations.negatives])
    query = np.repeat(relations.anchor, table.shape[1])
    document, grade = table.ravel(), relations.score.astype(np.float64).ravel()
    is_judged = (document != ABSENT) & ~np.isnan(grade)
    queries, query_index = np.unique(query[is_judged], return_inverse=True)
    corpus, document_index = np.unique(document[is_judged], return_inverse=True)
    return Judgments(name, queries, corpus, query_index.reshape(-1), document_index.reshape(-1), grade[is_judged])
