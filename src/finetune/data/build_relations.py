"""From typed columns and their item numbers to relations: one function for each layout, integers only.

R rows of the source, F values of a column with flattened lists, B relations, n negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Floats, Relations
from finetune.data.schema.columns import Bools, ItemColumn, TypedColumns

Codes = Mapping[str, Ints]  # for each item column, the item number of each of its flat values
MOST_NEGATIVES = 64  # of one query; more would not fit in a batch


@dataclass(frozen=True)
class BuiltRelations:
    """The relations of one source over the items of all, its class names, and notes for the user."""

    relations: Relations
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def build_relations(typed: TypedColumns, codes: Codes, items: Items, two_views: bool = False) -> BuiltRelations:
    """Return the relations of one source; unusable rows are added to `typed.faults` and left out."""
    blank_N = blank_items(items)
    codes = _without_blank_negatives(typed, codes, blank_N)
    _check_items(typed, codes, blank_N, two_views)
    layout = typed.roles.layout
    if layout == "labelled":
        return _labelled(typed, codes)
    if layout == "texts":
        return BuiltRelations(_rows(typed, codes, np.flatnonzero(~typed.faults.bad)))
    if layout == "several positives":
        return _several_positives(typed, codes)
    if layout == "scored lists":
        return _scored_lists(typed, codes)
    if layout == "judgments":
        return _judgments(typed, codes)
    return BuiltRelations(_rows(typed, codes, np.flatnonzero(~typed.faults.bad)))


def _without_blank_negatives(typed: TypedColumns, codes: Codes, blank_N: Bools) -> Codes:
    """Return the codes with blank negatives as absent."""
    absent = {
        column.name: np.where(blank_N[codes[column.name]], ABSENT, codes[column.name]) for column in typed.negatives
    }
    return {**codes, **absent}


def _check_items(typed: TypedColumns, codes: Codes, blank_N: Bools, two_views: bool) -> None:
    """Find rows without a required item, and rows that contradict themselves."""
    faults = typed.faults
    required = [typed.anchor]
    if typed.positive is not None:
        required.append(typed.positive)
    for column in required:
        code = codes[column.name]
        missing = (code == ABSENT) | blank_N[code]  # index -1 reads the last item, and is masked
        what = f"there is no {column.modality}"
        faults.add(column.row_of()[missing], column.name, "empty", what)
        if column.lengths is not None:
            faults.add(column.lengths == 0, column.name, "empty", "the list is empty")
    if typed.positive is None or typed.roles.score:
        return
    positive, row_of = codes[typed.positive.name], typed.positive.row_of()
    anchor = codes[typed.anchor.name][row_of]
    if not two_views:
        same = row_of[(anchor == positive) & (anchor != ABSENT)]
        faults.add(same, typed.anchor.name, "same", f"anchor and positive are the same {typed.anchor.modality}")
    for column in typed.negatives:
        _check_negatives(typed, column, codes)


def _check_negatives(typed: TypedColumns, column: ItemColumn, codes: Codes) -> None:
    """Find rows in which one of the negatives is one of the positives."""
    assert typed.positive is not None
    reach = max(int(code.max(initial=0)) for code in codes.values()) + 2
    right = typed.positive.row_of() * reach + codes[typed.positive.name] + 1
    wrong = column.row_of() * reach + codes[column.name] + 1
    bad = np.isin(wrong, right) & (codes[column.name] != ABSENT)
    what = f"a negative is the same {column.modality} as the positive"
    typed.faults.add(column.row_of()[bad], column.name, "negative", what)


def blank_items(items: Items) -> Bools:
    """Return which items are blank texts, (N,)."""
    blank = np.zeros(max(1, len(items)), bool)
    texts = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(items.texts)), 0)
    blank[: len(items.texts)] = texts.to_numpy(zero_copy_only=False)
    return blank


def _rows(typed: TypedColumns, codes: Codes, rows: Ints) -> Relations:
    """Return one relation for each of these rows."""
    anchor = codes[typed.anchor.name][rows]
    positive = np.full(len(rows), ABSENT)
    if typed.positive is not None:
        positive = codes[typed.positive.name][rows]
    score: Floats | None = None
    if typed.score is not None:
        score = typed.score[rows, None].astype(np.float32)
    return Relations(anchor, positive, _negatives(typed, codes)[rows], score, None, _weight(typed, rows))


def _weight(typed: TypedColumns, rows: Ints) -> Floats | None:
    if typed.weight is None:
        return None
    return typed.weight[rows].astype(np.float32)


def _negatives(typed: TypedColumns, codes: Codes) -> Ints:
    """Return the negatives of every row, (R, n), padded with -1."""
    rows = typed.faults.reading.table.num_rows
    tables = [_table(column, codes[column.name], rows) for column in typed.negatives]
    table: Ints = np.concatenate([np.empty((rows, 0), np.int64), *tables], axis=1)
    return table


def _table(column: ItemColumn, code: Ints, rows: int) -> Ints:
    if column.lengths is None:
        return code[:, None]
    return spread(column.row_of(), code, rows)


def spread(row_F: Ints, code_F: Ints, rows: int, most: int = MOST_NEGATIVES) -> Ints:
    """Return flat values as a table, (rows, n): those of each row in order, padded with -1.

    `row_F` ascends. Of more than `most` values the first are kept.
    """
    table, place = _empty_table(row_F, rows, most)
    table[row_F[place < most], place[place < most]] = code_F[place < most]
    return table


def _empty_table(row_F: Ints, rows: int, most: int) -> tuple[Ints, Ints]:
    counts = np.bincount(row_F, minlength=rows)
    place = np.arange(len(row_F)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.full((rows, min(most, int(counts.max(initial=0)))), ABSENT), place


def _several_positives(typed: TypedColumns, codes: Codes) -> BuiltRelations:
    """Return one relation for each positive, with the negatives of its row."""
    assert typed.positive is not None
    row_of = typed.positive.row_of()
    good = ~typed.faults.bad[row_of]
    rows = row_of[good]
    negatives = _negatives(typed, codes)[rows]
    positive = codes[typed.positive.name][good]
    relations = Relations(codes[typed.anchor.name][rows], positive, negatives, weight=_weight(typed, rows))
    return BuiltRelations(relations)


def _scored_lists(typed: TypedColumns, codes: Codes) -> BuiltRelations:
    """Return one relation for each row: its best document as the positive, the others as negatives, all scored."""
    assert typed.positive is not None
    assert typed.score is not None
    good = ~typed.faults.bad
    rows = np.flatnonzero(good)
    new_row = np.cumsum(good) - 1
    row_of = typed.positive.row_of()
    kept = good[row_of]
    row_F, code_F, score_F = new_row[row_of[kept]], codes[typed.positive.name][kept], typed.score[kept]
    order = np.lexsort((-score_F, row_F))  # the best of each row first; the first of equals stays first
    row_F, code_F, score_F = row_F[order], code_F[order], score_F[order]
    table = spread(row_F, code_F, len(rows), MOST_NEGATIVES + 1)
    scores = np.full(table.shape, np.nan, np.float32)
    _, place = _empty_table(row_F, len(rows), MOST_NEGATIVES + 1)
    inside = place < table.shape[1]
    scores[row_F[inside], place[inside]] = score_F[inside]
    anchor = codes[typed.anchor.name][rows]
    note = "Of every list of documents the one with the best score is the positive, the others are negatives."
    if not len(rows):
        return BuiltRelations(Relations(anchor, anchor, np.empty((0, 0), np.int64), np.empty((0, 1), np.float32)))
    return BuiltRelations(
        Relations(anchor, table[:, 0], table[:, 1:], scores, weight=_weight(typed, rows)), notes=[note]
    )


def _judgments(typed: TypedColumns, codes: Codes) -> BuiltRelations:
    """Return one relation for each right answer (a grade above 0), with the query's wrong answers as negatives."""
    assert typed.positive is not None
    assert typed.score is not None
    good = ~typed.faults.bad
    query, document = codes[typed.anchor.name], codes[typed.positive.name]
    is_best, regraded = _best_grades(query, document, typed.score, good)
    right, wrong = is_best & (typed.score > 0), good & (typed.score <= 0)
    queries, query_place = np.unique(query, return_inverse=True)
    order = np.argsort(query_place[wrong], kind="stable")
    wrong_of_query = spread(query_place[wrong][order], document[wrong][order], len(queries))
    rows = np.flatnonzero(right)
    negatives = wrong_of_query[query_place[rows]]
    # A pair may be judged both ways (by two annotators): then it is a positive.
    negatives[negatives == document[rows, None]] = ABSENT
    score = np.full((len(rows), 1 + negatives.shape[1]), np.nan, np.float32)
    score[:, 0] = typed.score[rows]
    score[:, 1:][negatives != ABSENT] = 0
    relations = Relations(query[rows], document[rows], negatives, score, weight=_weight(typed, rows))
    without = len(np.setdiff1d(query[good], query[right]))
    notes = []
    if without:
        notes.append(f"{without:,} queries have no right answer (a grade above 0) and are left out.")
    if regraded:
        pairs = f"{regraded:,} pairs of texts have"
        if regraded == 1:
            pairs = "1 pair of texts has"
        notes.append(f"{pairs} several grades: the best one counts.")
    return BuiltRelations(relations, notes=notes)


def _best_grades(query: Ints, document: Ints, grade: npt.NDArray[np.float64], good: Bools) -> tuple[Bools, int]:
    """Return which good rows have the best grade of their pair, (R,), and how many pairs have several grades."""
    rows = np.flatnonzero(good)
    key = query[rows] * (document.max(initial=0) + 1) + document[rows]
    pairs, which = np.unique(key, return_inverse=True)
    best, least = np.full(len(pairs), -np.inf), np.full(len(pairs), np.inf)
    np.maximum.at(best, which, grade[rows])
    np.minimum.at(least, which, grade[rows])
    is_best = np.zeros(len(good), bool)
    is_best[rows] = grade[rows] == best[which]
    return is_best, int((best > least).sum())


def _labelled(typed: TypedColumns, codes: Codes) -> BuiltRelations:
    assert typed.label is not None
    encoded = typed.label.dictionary_encode().combine_chunks()
    names = encoded.dictionary.to_pylist()
    label = pc.fill_null(encoded.indices, ABSENT).to_numpy(zero_copy_only=False).astype(np.int64)
    good = ~typed.faults.bad
    # Members are distinct items: the same text twice is no pair to train on.
    pair = np.unique(np.column_stack([label[good], codes[typed.anchor.name][good]]), axis=0)
    members = np.bincount(pair[:, 0], minlength=len(names))
    lonely = good & (members[label] == 1)
    name = typed.roles.label
    typed.faults.add(lonely, name, "lonely", "this class has one member only")
    rows = np.flatnonzero(~typed.faults.bad)
    relations = Relations(
        codes[typed.anchor.name][rows],
        np.full(len(rows), ABSENT),
        np.empty((len(rows), 0), np.int64),
        None,
        label[rows],
        _weight(typed, rows),
    )
    return BuiltRelations(relations, [str(name) for name in names])


def group_of_labels(relations: Relations, items: int) -> tuple[Ints, Ints, Ints]:
    """Return the class of every item (N,), and the pairs (left, right) of items that share a further class.

    An item with several classes is in the group of its first; with the members of the others it is paired one by one.
    """
    assert relations.label is not None
    pair = relations.label * items + relations.anchor
    first = np.sort(np.unique(pair, return_index=True)[1])
    anchor, label = relations.anchor[first], relations.label[first]
    group = np.full(items, -1)
    group[anchor[::-1]] = label[::-1]  # the first row of an item is written last
    other = group[anchor] != label
    extra, extra_label = anchor[other], label[other]
    order = np.argsort(label, kind="stable")
    counts = np.bincount(label, minlength=int(label.max(initial=0)) + 1)
    starts = np.cumsum(counts) - counts
    left = np.repeat(extra, counts[extra_label])
    right = anchor[order][flat_ranges(starts[extra_label], counts[extra_label])]
    apart = left != right
    return group, left[apart], right[apart]
