"""From sources to `Prepared`: number the items of all sources together, relate them, find who is right for whom.

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
from finetune.data.build_relations import Related, group_of_labels, relate
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
    """One source, read and typed: its name, its columns, how its texts begin, and what a chain of pairs means.

    With `transitive`, items that hang together by a chain of pairs are all right for each other. `min_score` makes
    pairs of the scored pairs that have at least this score, and leaves the others out. With `two_views` the same item
    may be anchor and positive. `notes` are sentences about how it was read.
    """

    name: str
    columns: TypedColumns
    prompts: Prompts
    transitive: bool
    min_score: float | None
    two_views: bool = False
    notes: list[str] = field(default_factory=list)


def prepare(sources: list[TypedSource], validation: Beir | None, bad: BadRows) -> Prepared:
    """Return everything, numbered and related; rows that mean nothing are told to `bad` and left out.

    `sources` is empty afterwards: what they read is let go as soon as it became numbers, before memory is needed
    for the rest.
    """
    names, layouts = [source.name for source in sources], [_layout(source) for source in sources]
    prompts, transitive = [source.prompts for source in sources], [source.transitive for source in sources]
    rows_read = sum(source.columns.faults.reading.rows_read for source in sources)
    notes = [note for source in sources for note in source.notes]
    items, codes = _number(sources, validation)
    # Arrow keeps what its hash table took for itself, several times what the items take.
    pa.default_memory_pool().release_unused()
    related = [
        _pairs_from(source, relate(source.columns, code, items, source.two_views))
        for source, code in zip(sources, codes, strict=False)
    ]
    while sources:
        sources.pop(0).columns.faults.tell(bad)
    pa.default_memory_pool().release_unused()
    relations, labels = _join(related)
    notes += [note for one in related for note in one.notes] + (validation.notes if validation else [])
    judgments = validation.judgments(codes[-1]["queries"], codes[-1]["corpus"]) if validation else None
    del codes, related
    items, relations, judgments, raw = _prompted(items, relations, judgments, prompts)
    distinct = relations.distinct_rows()
    duplicates = len(relations) - len(distinct)
    relations = relations.take(distinct) if duplicates else relations
    component = _components(relations, raw)
    known = _known(relations, component, raw, transitive)
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
    return "pairs" if layout == "scored pairs" and source.min_score is not None else layout


def _count(number: int, what: str) -> str:
    return f"{number:,} {what} was" if number == 1 else f"{number:,} {what}s were"


def _number(sources: Sequence[TypedSource], validation: Beir | None) -> tuple[Items, list[dict[str, Ints]]]:
    """Number the items of everything together; returns for each source, and last the validation, its columns' codes."""
    names: list[tuple[int, str]] = []
    columns: list[pa.Array | pa.ChunkedArray] = []
    modalities: list[Modality] = []
    for place, source in enumerate(sources):
        for column in source.columns.items:
            names.append((place, column.name))
            columns.append(column.values)
            modalities.append(column.modality)
    if validation:
        names += [(len(sources), "queries"), (len(sources), "corpus")]
        columns += [validation.queries, validation.corpus]
        modalities += ["text", "text"]
    items, codes = Items.from_columns(columns, modalities)
    found: list[dict[str, Ints]] = [{} for _ in range(len(sources) + 1)]
    for (place, name), code in zip(names, codes, strict=True):
        found[place][name] = code
    return items, found


def _pairs_from(source: TypedSource, related: Related) -> Related:
    """Return scored pairs as right pairs, if it is said from which score on they are."""
    if source.min_score is None or source.columns.roles.layout != "scored pairs":
        return related
    assert related.relations.score is not None
    score = related.relations.score[:, 0]
    kept = np.flatnonzero(score >= np.float32(source.min_score))
    left_out = len(score) - len(kept)
    note = f"{_count(left_out, 'pair')} left out: the score is below {source.min_score:g}."
    relations = replace(related.relations.take(kept), score=None)
    return Related(relations, related.labels, [*related.notes, *([note] if left_out else [])])


def _join(related: Sequence[Related]) -> tuple[Relations, list[str]]:
    """Return the relations of all sources as one table, each with the number of its source, and all classes."""
    labels = [name for one in related for name in one.labels]
    if len(related) == 1:
        return related[0].relations, labels
    all_relations = [one.relations for one in related]
    width = max(relations.negatives.shape[1] for relations in all_relations)
    first_label = np.cumsum([0, *(len(one.labels) for one in related)])
    sizes = [len(relations) for relations in all_relations]

    def joined(parts: list[Any], kind: type, fill: float, columns: int | None = None) -> Any:
        if all(part is None for part in parts):
            return None
        shape = () if columns is None else (columns,)
        filled = [_filled(part, (size, *shape), kind, fill) for part, size in zip(parts, sizes, strict=True)]
        return np.concatenate(filled)

    label = [
        None if one.label is None else one.label + offset
        for one, offset in zip(all_relations, first_label, strict=False)
    ]
    return (
        Relations(
            np.concatenate([one.anchor for one in all_relations]),
            np.concatenate([one.positive for one in all_relations]),
            joined([one.negatives for one in all_relations], np.int64, ABSENT, width),
            joined([one.score for one in all_relations], np.float32, np.nan, 1 + width),
            joined(label, np.int64, ABSENT),
            joined([one.weight for one in all_relations], np.float32, 1.0),
            np.repeat(np.arange(len(sizes)), sizes),
        ),
        labels,
    )


def _filled(part: Any, shape: tuple[int, ...], kind: type, fill: float) -> Any:
    """Return `part` widened to `shape`, what it does not have being `fill`."""
    whole: Any = np.full(shape, fill, kind)
    if part is not None and part.ndim == 2:
        whole[:, : part.shape[1]] = part
    elif part is not None:
        whole[:] = part
    return whole


def _prompted(
    items: Items, relations: Relations, judgments: Judgments | None, prompts: Sequence[Prompts]
) -> tuple[Items, Relations, Judgments | None, Ints]:
    """Return the same with every text carrying the prompt of its column; queries carry that of the first source."""
    columns: list[Ints] = []
    fronts: list[str] = []
    rows = [np.flatnonzero(relations.source == i) if len(prompts) > 1 else slice(None) for i in range(len(prompts))]
    for mine, one in zip(rows, prompts, strict=True):
        columns += [relations.anchor[mine], relations.positive[mine], relations.negatives[mine]]
        fronts += [one.anchor, one.positive, one.positive]
    if judgments is not None:
        columns += [judgments.queries, judgments.corpus]
        fronts += [prompts[0].anchor, prompts[0].positive]
    if not any(fronts):
        return items, relations, judgments, np.arange(len(items))
    items, columns, raw = with_prompts(items, columns, fronts)
    anchor, positive, negatives = relations.anchor.copy(), relations.positive.copy(), relations.negatives.copy()
    for i, mine in enumerate(rows):
        anchor[mine], positive[mine], negatives[mine] = columns[3 * i : 3 * i + 3]
    relations = replace(relations, anchor=anchor, positive=positive, negatives=negatives)
    if judgments is not None:
        judgments = replace(judgments, queries=columns[-2], corpus=columns[-1])
    return items, relations, judgments, raw


def _components(relations: Relations, raw: Ints) -> Ints:
    """Return a number for every item, (N,): the same for those that a chain of relations, or of twins, connects."""
    paired = relations.positive != ABSENT
    pair = twins(raw)
    left = np.concatenate([relations.anchor[paired], pair[:, 0]])
    component = connected(left, np.concatenate([relations.positive[paired], pair[:, 1]]))
    return np.concatenate([component, np.arange(len(component), len(raw))])


def _known(relations: Relations, component: Ints, raw: Ints, transitive: Sequence[bool]) -> KnownPositives:
    """Return who is right for whom: pairs, classes, chains of pairs where these are meant, under whatever prompt."""
    items, group = len(raw), None
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
        # Numbers of classes and of components must not be taken for each other.
        group = of_labels if group is None else np.where(of_labels != ABSENT, items + of_labels, group)
    return KnownPositives.of_pairs(*under_all_prompts(raw, left, right), items, group)
