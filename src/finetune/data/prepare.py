"""From sources to `Prepared`: number the items of all sources together, build the relations and known positives.

N items, B relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.bad_rows import BadRows
from finetune.data.build_relations import BuiltRelations, build_relations, group_of_labels
from finetune.data.holdout.judgments import Judgments
from finetune.data.holdout.split import connected
from finetune.data.items import ABSENT, Items, Modality
from finetune.data.known_positives import KnownPositives
from finetune.data.prepared import Prepared
from finetune.data.prompts import Prompts, twins, under_all_prompts, with_prompts
from finetune.data.relations import Relations
from finetune.data.schema.columns import TypedColumns
from finetune.data.schema.layouts import Layout
from finetune.data.sources.beir import Beir


@dataclass(frozen=True)
class TypedSource:
    """One source, read and typed: its name, its columns, and its settings.

    With `transitive`, items that are connected by a chain of pairs are all positives of each other. `min_score` makes
    pairs of the scored pairs with at least this score, and drops the rest. With `two_views` the same item may be anchor
    and positive. `notes` are sentences about how it was read.
    """

    name: str
    columns: TypedColumns
    prompts: Prompts
    transitive: bool
    min_score: float | None
    two_views: bool = False
    notes: list[str] = field(default_factory=list)


def prepare(sources: list[TypedSource], validation: Beir | None, bad: BadRows) -> Prepared:
    """Return the items, relations and known positives of all sources; unusable rows are added to `bad` and left out.

    `sources` is empty afterwards: the tables are released as soon as they are numbers, before the rest needs memory.
    """
    names, layouts = [source.name for source in sources], [_layout(source) for source in sources]
    prompts, transitive = [source.prompts for source in sources], [source.transitive for source in sources]
    rows_read = sum(source.columns.faults.reading.rows_read for source in sources)
    notes = [note for source in sources for note in source.notes]
    items, codes = _number(sources, validation)
    # Arrow does not return the memory of its hash table, several times that of the items.
    pa.default_memory_pool().release_unused()
    built = []
    for source, code in zip(sources, codes, strict=False):
        relations_of_source = build_relations(source.columns, code, items, source.two_views)
        built.append(_apply_min_score(source, relations_of_source))
    while sources:
        sources.pop(0).columns.faults.report_to(bad)
    pa.default_memory_pool().release_unused()
    relations, labels = _concatenate(built)
    notes += [note for one in built for note in one.notes]
    judgments: Judgments | None = None
    if validation is not None:
        notes += validation.notes
        judgments = validation.judgments(codes[-1]["queries"], codes[-1]["corpus"])
    del codes, built
    items, relations, judgments, raw = _add_prompts(items, relations, judgments, prompts)
    distinct = relations.distinct_rows()
    duplicates = len(relations) - len(distinct)
    if duplicates:
        relations = relations.take(distinct)
    component = _components(relations, raw)
    known = _known_positives(relations, component, raw, transitive)
    if duplicates:
        notes.insert(0, f"{_count(duplicates, 'duplicate row')} left out: each was kept once.")
    return Prepared(
        items,
        relations,
        known,
        component,
        judgments,
        names,
        layouts,
        labels,
        rows_read,
        len(bad),
        bad.counted() if bad.serious < len(bad) else "",
        duplicates,
        notes,
    )


def _layout(source: TypedSource) -> Layout:
    layout = source.columns.roles.layout
    if layout == "scored pairs" and source.min_score is not None:
        return "pairs"
    return layout


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what} was"
    return f"{number:,} {what}s were"


def _number(sources: Sequence[TypedSource], validation: Beir | None) -> tuple[Items, list[dict[str, Ints]]]:
    """Number all items together; returns the codes of the columns of each source, those of the validation last."""
    names: list[tuple[int, str]] = []
    columns: list[pa.Array | pa.ChunkedArray] = []
    modalities: list[Modality] = []
    for index, source in enumerate(sources):
        for column in source.columns.items:
            names.append((index, column.name))
            columns.append(column.values)
            modalities.append(column.modality)
    if validation:
        names += [(len(sources), "queries"), (len(sources), "corpus")]
        columns += [validation.queries, validation.corpus]
        modalities += ["text", "text"]
    items, codes = Items.from_columns(columns, modalities)
    found: list[dict[str, Ints]] = [{} for _ in range(len(sources) + 1)]
    for (index, name), code in zip(names, codes, strict=True):
        found[index][name] = code
    return items, found


def _apply_min_score(source: TypedSource, built: BuiltRelations) -> BuiltRelations:
    """Return the scored pairs with at least `min_score` as positive pairs; everything else unchanged."""
    if source.min_score is None or source.columns.roles.layout != "scored pairs":
        return built
    assert built.relations.score is not None
    score = built.relations.score[:, 0]
    kept = np.flatnonzero(score >= np.float32(source.min_score))
    left_out = len(score) - len(kept)
    notes = list(built.notes)
    if left_out:
        notes.append(f"{_count(left_out, 'pair')} left out: the score is below {source.min_score:g}.")
    relations = replace(built.relations.take(kept), score=None)
    return BuiltRelations(relations, built.labels, notes)


def _concatenate(built: Sequence[BuiltRelations]) -> tuple[Relations, list[str]]:
    """Return the relations of all sources as one table, each with the number of its source, and all classes."""
    labels = [name for one in built for name in one.labels]
    if len(built) == 1:
        return built[0].relations, labels
    all_relations = [one.relations for one in built]
    width = max(relations.negatives.shape[1] for relations in all_relations)
    sizes = [len(relations) for relations in all_relations]

    def joined(parts: list[Any], kind: type, fill: float, columns: int | None = None) -> Any:
        if all(part is None for part in parts):
            return None
        shape = () if columns is None else (columns,)
        filled = [_filled(part, (size, *shape), kind, fill) for part, size in zip(parts, sizes, strict=True)]
        return np.concatenate(filled)

    label, first_label = [], 0
    for one in built:
        of_source = one.relations.label
        if of_source is not None:
            of_source = of_source + first_label
        label.append(of_source)
        first_label += len(one.labels)
    relations = Relations(
        np.concatenate([one.anchor for one in all_relations]),
        np.concatenate([one.positive for one in all_relations]),
        joined([one.negatives for one in all_relations], np.int64, ABSENT, width),
        joined([one.score for one in all_relations], np.float32, np.nan, 1 + width),
        joined(label, np.int64, ABSENT),
        joined([one.weight for one in all_relations], np.float32, 1.0),
        np.repeat(np.arange(len(sizes)), sizes),
    )
    return relations, labels


def _filled(part: Any, shape: tuple[int, ...], kind: type, fill: float) -> Any:
    """Return `part` padded to `shape` with `fill`."""
    whole: Any = np.full(shape, fill, kind)
    if part is not None and part.ndim == 2:
        whole[:, : part.shape[1]] = part
    elif part is not None:
        whole[:] = part
    return whole


def _add_prompts(
    items: Items, relations: Relations, judgments: Judgments | None, prompts: Sequence[Prompts]
) -> tuple[Items, Relations, Judgments | None, Ints]:
    """Return the same with the prompt of its column before every text; queries have that of the first source."""
    columns: list[Ints] = []
    prompt_of_column: list[str] = []
    rows: list[Ints | slice] = [slice(None)]
    if len(prompts) > 1:
        rows = [np.flatnonzero(relations.source == i) for i in range(len(prompts))]
    for of_source, one in zip(rows, prompts, strict=True):
        columns += [relations.anchor[of_source], relations.positive[of_source], relations.negatives[of_source]]
        prompt_of_column += [one.anchor, one.positive, one.positive]
    if judgments is not None:
        columns += [judgments.queries, judgments.corpus]
        prompt_of_column += [prompts[0].anchor, prompts[0].positive]
    if not any(prompt_of_column):
        return items, relations, judgments, np.arange(len(items))
    items, columns, raw = with_prompts(items, columns, prompt_of_column)
    anchor, positive, negatives = relations.anchor.copy(), relations.positive.copy(), relations.negatives.copy()
    for i, of_source in enumerate(rows):
        anchor[of_source], positive[of_source], negatives[of_source] = columns[3 * i : 3 * i + 3]
    relations = replace(relations, anchor=anchor, positive=positive, negatives=negatives)
    if judgments is not None:
        judgments = replace(judgments, queries=columns[-2], corpus=columns[-1])
    return items, relations, judgments, raw


def _components(relations: Relations, raw: Ints) -> Ints:
    """Return a number for every item, (N,): the same for items that are connected by a chain of relations or twins."""
    paired = relations.positive != ABSENT
    pair = twins(raw)
    left = np.concatenate([relations.anchor[paired], pair[:, 0]])
    component = connected(left, np.concatenate([relations.positive[paired], pair[:, 1]]))
    return np.concatenate([component, np.arange(len(component), len(raw))])


def _known_positives(relations: Relations, component: Ints, raw: Ints, transitive: Sequence[bool]) -> KnownPositives:
    """Return the known positives: pairs, classes, and chains of pairs where `transitive`, under every prompt."""
    items = len(raw)
    group: Ints | None = None
    left, right = KnownPositives.edges(relations)
    if any(transitive):
        group = np.full(items, ABSENT)
        chained = relations
        if relations.source is not None:
            chained = relations.take(np.isin(relations.source, np.flatnonzero(transitive)))
        members = np.concatenate([chained.anchor, chained.positive[chained.positive != ABSENT]])
        group[members] = component[members]
    if relations.label is not None and (relations.label != ABSENT).any():
        of_labels, more_left, more_right = group_of_labels(relations.take(relations.label != ABSENT), items)
        left, right = np.concatenate([left, more_left]), np.concatenate([right, more_right])
        if group is not None:  # the offset keeps numbers of classes and of components apart
            of_labels = np.where(of_labels != ABSENT, items + of_labels, group)
        group = of_labels
    return KnownPositives.of_pairs(*under_all_prompts(raw, left, right), items, group)
