"""A data set ready to train on: items, relations, judgments, and what is to be said about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints, distinct
from finetune.data.beir import Beir
from finetune.data.items import Items
from finetune.data.judgments import Judgments
from finetune.data.relations import Relations
from finetune.data.split import MAX_QUERIES, hold_out, judge
from finetune.errors import CheckFailed, Problem

FEW_QUERIES = 20


@dataclass(frozen=True)
class Table:
    """What a source hands over, whatever it was read from: columns of text, one row a relation.

    `anchor` and `positive` have no nulls; a null in one of `negatives` is a negative that is not there.
    """

    name: str
    anchor: pa.Array | pa.ChunkedArray
    positive: pa.Array | pa.ChunkedArray
    negatives: list[pa.Array | pa.ChunkedArray]
    rows_read: int
    rows_skipped: int


@dataclass(frozen=True)
class Dataset:
    """Items, the relations to train on, the judgments to evaluate by, numbers about them, and sentences to print."""

    items: Items
    train: Relations
    validation: Judgments | None
    facts: dict[str, int | float | str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def assemble(table: Table, validation: Beir | None, limit: int | None, fraction: float, seed: int) -> Dataset:
    """Turn a table of texts into a data set: number the texts, drop repeats, cut to `limit`, split.

    Without `validation`, `fraction` of the relations is held out, drawn by `seed`. Raises `CheckFailed` for a table
    that nothing can be learnt from.
    """
    columns = [table.anchor, table.positive, *table.negatives]
    evaluated = [validation.queries, validation.corpus] if validation else []
    items, codes = Items.from_columns([*columns, *evaluated])
    rows = len(table.anchor)
    negatives = np.stack(codes[2 : len(columns)], axis=1) if table.negatives else np.empty((rows, 0), np.int64)
    everything = Relations(codes[0], codes[1], negatives)
    relations = everything.take(everything.distinct_rows())
    duplicates = len(everything) - len(relations)
    relations = _sample(relations, limit)
    _refuse_useless(relations, items, table.name)

    notes = _reading_notes(table, duplicates)
    judgments: Judgments | None
    if validation:
        train, judgments = relations, validation.judgments(codes[len(columns)], codes[len(columns) + 1])
        notes += [f"Evaluating on {validation.name}.", *validation.notes]
    else:
        train, judgments, said = _split(relations, fraction, seed)
        _refuse_overdrawn(train, relations, fraction)
        notes += said
    dataset = _compact(Dataset(items, train, judgments, {}, notes))
    facts = {"rows_read": table.rows_read, "rows_skipped": table.rows_skipped, "duplicate_rows": duplicates}
    return _with_facts(dataset, facts)


def _sample(relations: Relations, limit: int | None) -> Relations:
    if limit is None or limit >= len(relations):
        return relations
    # The run's seed has no say: the same limit is the same rows in every run.
    rows = np.random.default_rng(0).permutation(len(relations))[:limit]
    return relations.take(np.sort(rows))


def _refuse_useless(relations: Relations, items: Items, name: str) -> None:
    if len(relations) < 2:
        raise CheckFailed(
            [
                Problem(
                    name, f"there is only {len(relations)} usable pair.", "Training needs at least two distinct pairs."
                )
            ]
        )
    problems = []
    for role, codes in (("anchor", relations.anchor), ("positive", relations.positive)):
        if (codes == codes[0]).all():
            text = items.take(codes[:1])[0][:60]
            problems.append(
                Problem(
                    name,
                    f"all {len(codes)} {role}s are the same text ({text!r}), so no pair can be told from another.",
                    "Contrastive learning takes a pair's negatives from the other pairs: look at data.columns.",
                )
            )
    if problems:
        raise CheckFailed(problems)


def _refuse_overdrawn(train: Relations, relations: Relations, fraction: float) -> None:
    if len(train) < 2:
        left = f"{len(train)} {'is' if len(train) == 1 else 'are'} left to train on"
        what = f"with {fraction:g} of the {len(relations)} pairs held out, {left}."
        raise CheckFailed([Problem("data.validation_fraction", what, "Training needs at least two: hold out less.")])


def _reading_notes(table: Table, duplicates: int) -> list[str]:
    notes = []
    if table.rows_skipped:
        notes.append(f"{table.rows_skipped:,} bad {_rows(table.rows_skipped)} left out.")
    if duplicates:
        notes.append(f"{duplicates:,} duplicate {_rows(duplicates)} left out: each was kept once.")
    return notes


def _rows(count: int) -> str:
    return "row was" if count == 1 else "rows were"


def _split(relations: Relations, fraction: float, seed: int) -> tuple[Relations, Judgments | None, list[str]]:
    split = hold_out(relations, fraction, seed)
    if split.by == "nothing":
        return relations, None, [f"Nothing to evaluate on: {fraction:g} of {len(relations)} pairs is too little."]
    judgments = judge(relations, split.held, "a held-out part of the file")
    queries = len(judgments.queries)
    notes = [f"Evaluating on {queries:,} held-out anchors, found among {len(judgments.corpus):,} positives."]
    if split.by == "anchor":
        notes.append(
            "Most rows are connected through shared texts, so anchors were held out, but their positives may occur "
            "in training too."
        )
    if queries < FEW_QUERIES:
        notes.append(f"Only {queries} validation {'query' if queries == 1 else 'queries'}: the figures will be rough.")
    if queries == MAX_QUERIES:
        notes.append(f"{MAX_QUERIES:,} held-out anchors are enough; all other pairs are trained on.")
    return relations.take(split.train), judgments, notes


def _compact(dataset: Dataset) -> Dataset:
    """Leave out the items that nothing mentions any more, which `limit` and the split can leave behind."""
    judged = dataset.validation
    mentioned = [dataset.train.used_items()] + ([judged.queries, judged.corpus] if judged else [])
    used = distinct(np.concatenate(mentioned))
    if len(used) == len(dataset.items):
        return dataset

    def new(old: Ints) -> Ints:
        return np.searchsorted(used, old)

    validation = replace(judged, queries=new(judged.queries), corpus=new(judged.corpus)) if judged else None
    return replace(dataset, items=dataset.items.keep(used), train=dataset.train.renumbered(used), validation=validation)


def _with_facts(dataset: Dataset, facts: dict[str, int]) -> Dataset:
    train, judged = dataset.train, dataset.validation
    counts: dict[str, int | float | str] = {
        **facts,
        "distinct_texts": len(dataset.items),
        "distinct_anchors": len(distinct(train.anchor)),
        "distinct_positives": len(distinct(train.positive)),
        "training_pairs": len(train),
    }
    if judged is None:
        return replace(dataset, facts=counts)
    # A text that is asked for in the evaluation and was trained on makes the figures flatter the model. That a
    # document of the corpus occurs in training is how retrieval is used, and is no leak.
    leaks = int((np.isin(train.anchor, judged.queries) | np.isin(train.positive, judged.queries)).sum())
    notes = dataset.notes.copy()
    if leaks:
        pairs = "pair contains" if leaks == 1 else "pairs contain"
        notes.append(f"{leaks:,} training {pairs} a validation query: the figures will flatter the model.")
    return replace(dataset, facts={**counts, **judged.facts(), "leaks": leaks}, notes=notes)
