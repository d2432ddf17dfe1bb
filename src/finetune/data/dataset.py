"""A data set ready to train on: items, relations, evaluation data, and notes for the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from finetune.data.arrays import Ints, distinct
from finetune.data.holdout.eval_data import EvalData, LabelledItems, ScoredPairs
from finetune.data.holdout.holdout import Parts, hold_out_fraction, rows_were
from finetune.data.holdout.judgments import Judgments
from finetune.data.holdout.leaks import Leaks, find_leaks
from finetune.data.items import ABSENT, PLURALS, Items
from finetune.data.known_positives import KnownPositives
from finetune.data.prepared import Prepared
from finetune.data.relations import Relations
from finetune.data.schema.layouts import Layout
from finetune.errors import CheckFailed, Problem


@dataclass(frozen=True)
class Dataset:
    """Items, the relations to train on, known positives, and the evaluation data that was held out.

    `validation` are judgments, `pairs` scored pairs, `labelled` labelled items, None where there are none. `layouts`
    and `sources` are the layout and the name of each source, `labels` the names of the classes. `facts` are numbers for
    the report, `notes` sentences to print, `problems` a file that lists the bad rows that were left out, `prompts` the
    prompts by their name in the saved model, `fingerprint` a digest of everything that was read and of how it was read.
    """

    items: Items
    train: Relations
    known: KnownPositives
    validation: Judgments | None
    sources: list[str]
    layouts: list[Layout]
    labels: list[str] = field(default_factory=list)
    leaks: Leaks | None = None
    facts: dict[str, int | float | str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: Path | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    pairs: ScoredPairs | None = None
    labelled: LabelledItems | None = None

    @property
    def held(self) -> EvalData:
        """The evaluation data that was held out."""
        found = [data for data in (self.validation, self.pairs, self.labelled) if data is not None]
        return EvalData(self.items, tuple(found))

    def rows_of(self, source: int | None) -> Relations:
        """Return the training relations of one of several sources, by its index; of all for None."""
        source_B = self.train.source
        if source_B is None or source is None:
            return self.train
        return self.train.take(source_B == source)

    def classes(self, source: int | None) -> Ints:
        """Return the distinct class numbers of these rows, ascending, (C,); none if not every row has a class."""
        label = self.rows_of(source).label
        if label is None or (label == ABSENT).any():
            return np.empty(0, np.int64)
        return distinct(label)


def assemble(
    prepared: Prepared,
    limit: int | None,
    fraction: float,
    seed: int,
    *,
    near_leaks: bool = False,
    prompts: Mapping[str, str] | None = None,
) -> Dataset:
    """Limit the prepared data to `limit` relations and hold out a part of them, unless it has judgments of its own.

    `prompts` are those of the texts, by their name in the saved model.

    Raises:
        CheckFailed: the data is too little to train on.
    """
    relations = _sample(prepared.relations, limit)
    _check_trainable(relations, prepared)
    notes = [*skipped_notes(prepared), *prepared.notes]
    parts = Parts(relations, prepared.judgments)
    if parts.judgments is not None:
        notes.append(f"Validation data: {parts.judgments.name}.")
    else:
        parts, split_notes = hold_out_fraction(relations, prepared, fraction, seed)
        _check_enough_left(parts.train, relations, fraction)
        notes += split_notes
    items, known, (train, judgments, pairs, labelled) = _drop_unused_items(prepared, parts)
    prompts, leaks = dict(prompts or {}), None
    if judgments is not None:
        leaks = find_leaks(items, train, judgments, near=near_leaks, prompts=list(prompts.values()))
        notes += leaks.notes()
    sources, layouts, labels = prepared.sources, prepared.layouts, prepared.labels
    dataset = Dataset(items, train, known, judgments, sources, layouts, labels, leaks, prompts=prompts)
    dataset = replace(dataset, pairs=pairs, labelled=labelled)
    return replace(dataset, facts=_facts(dataset, prepared), notes=notes)


def skipped_notes(prepared: Prepared) -> list[str]:
    """Return the sentence about rows that were left out, if there are any."""
    if not prepared.rows_skipped:
        return []
    if prepared.skipped:  # of a BEIR folder, where an empty text is not a row
        return [f"Left out: {prepared.skipped}."]
    return [f"{prepared.rows_skipped:,} bad {rows_were(prepared.rows_skipped)} left out."]


def _sample(relations: Relations, limit: int | None) -> Relations:
    if limit is None or limit >= len(relations):
        return relations
    # Independent of the run's seed: the same limit gives the same rows in every run.
    if relations.label is not None:
        return relations.take(_whole_classes(relations.label, limit))
    rows = np.random.default_rng(0).permutation(len(relations))[:limit]
    return relations.take(np.sort(rows))


def _whole_classes(label: Ints, limit: int) -> Ints:
    """Return about `limit` rows, of as many classes as fit with at least two members each."""
    order = np.random.default_rng(0).permutation(len(label))
    # Rank of each row within its class, in random order: two of every class come before the third of any.
    by_class = order[np.argsort(label[order], kind="stable")]
    counts = np.bincount(label)
    counts = counts[counts > 0]
    rank = np.arange(len(label)) - np.repeat(np.cumsum(counts) - counts, counts)
    pairs_first = np.argsort(rank // 2, kind="stable")
    return np.sort(by_class[pairs_first[: limit - limit % 2]])


def _check_trainable(relations: Relations, prepared: Prepared) -> None:
    name = ", ".join(prepared.sources)
    items_only = _has_items_only(prepared)
    if len(relations) < 2:
        unit = "row" if items_only else "pair"
        what = f"there is no usable {unit}."
        if len(relations):
            what = f"there is only 1 usable {unit}."
        raise CheckFailed([Problem(name, what, "Training needs at least two distinct pairs.")])
    if items_only:
        return
    problems = []
    paired = relations.positive >= 0
    for role, codes in (("anchor", relations.anchor), ("positive", relations.positive)):
        if paired.all() and (codes == codes[0]).all():
            text = prepared.items.take(codes[:1])[0][:60]
            what = f"all {len(codes)} {role}s are the same ({text!r}), so no pair can be distinguished from another."
            advice = "Contrastive learning takes a pair's negatives from the other pairs: look at data.columns."
            problems.append(Problem(name, what, advice))
    if problems:
        raise CheckFailed(problems)


def _has_items_only(prepared: Prepared) -> bool:
    """Return whether no source has pairs."""
    return set(prepared.layouts) <= {"labelled", "texts"}


def _check_enough_left(train: Relations, relations: Relations, fraction: float) -> None:
    if len(train) < 2:
        left = f"{len(train)} {'is' if len(train) == 1 else 'are'} left to train on"
        what = f"with {fraction:g} of the {len(relations)} pairs held out, {left}."
        raise CheckFailed([Problem("data.validation_fraction", what, "Training needs at least two: hold out less.")])


def _drop_unused_items(prepared: Prepared, parts: Parts) -> tuple[Items, KnownPositives, Parts]:
    """Drop the items that no relation and no evaluation data uses any more after `limit` and the split."""
    train, judged, pairs, labelled = parts
    columns = [train.used_items()]
    if judged is not None:
        columns += [judged.queries, judged.corpus]
    if pairs is not None:
        columns += [pairs.left, pairs.right]
    if labelled is not None:
        columns.append(labelled.items)
    used = distinct(np.concatenate(columns))
    if len(used) == len(prepared.items):
        return prepared.items, prepared.known, parts

    def new(old: Ints) -> Ints:
        return np.searchsorted(used, old)

    if judged is not None:
        judged = replace(judged, queries=new(judged.queries), corpus=new(judged.corpus))
    if pairs is not None:
        pairs = replace(pairs, left=new(pairs.left), right=new(pairs.right))
    if labelled is not None:
        labelled = replace(labelled, items=new(labelled.items))
    kept = Parts(train.renumbered(used), judged, pairs, labelled)
    return prepared.items.keep(used), prepared.known.renumbered(used), kept


def _facts(dataset: Dataset, prepared: Prepared) -> dict[str, int | float | str]:
    train = dataset.train
    facts: dict[str, int | float | str] = {
        "layout": ", ".join(dict.fromkeys(dataset.layouts)),
        "rows_read": prepared.rows_read,
        "rows_skipped": prepared.rows_skipped,
        "duplicate_rows": prepared.duplicates,
    }
    for part in dataset.items.parts:
        if len(part.values):
            facts[f"distinct_{PLURALS[part.modality]}"] = len(part.values)
    facts["distinct_anchors"] = len(distinct(train.anchor))
    if (train.positive >= 0).any():
        facts["distinct_positives"] = len(distinct(train.positive[train.positive >= 0]))
    if train.label is not None:
        facts["classes"] = len(distinct(train.label[train.label >= 0]))
    facts["training_rows" if _has_items_only(prepared) else "training_pairs"] = len(train)
    if dataset.validation is not None:
        facts |= dataset.validation.facts()
    if dataset.pairs is not None:
        facts["validation_pairs"] = len(dataset.pairs.score)
    if dataset.leaks is not None:
        facts |= dataset.leaks.facts()
    return facts
