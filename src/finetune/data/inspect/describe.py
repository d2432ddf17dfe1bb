"""A description of a data set for the user: recognized columns, counts, lengths, classes, and examples.

Everything is plain data that can be written as JSON; texts are cut to one printable line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.arrays import Ints
from finetune.data.bad_rows import BadRow, cut
from finetune.data.dataset import Dataset
from finetune.data.inspect import stats
from finetune.data.inspect.stats import Facts, shown
from finetune.data.items import ABSENT, Items, Modality
from finetune.data.relations import Relations
from finetune.data.schema.layouts import Roles
from finetune.data.schema.questions import unused_note

if TYPE_CHECKING:
    from finetune.data.sources import Head

EXAMPLES = 3
_NEGATIVES = 3  # of an example
_BAD_ROWS = 5
_MANY_CUT = 0.05  # share of truncated texts from which on there is a warning


def describe(
    dataset: Dataset, heads: Sequence[tuple[Head, Roles]], tokenizer: Any | None, max_length: int, seed: int
) -> Facts:
    """Return everything about a data set; empty sections are left out.

    `heads` are the first rows and the column roles of each source. `tokenizer` is a fast tokenizer of transformers, or
    None: then lengths are in characters. `seed` selects the examples.
    """
    lengths, classes = stats.lengths(dataset, tokenizer, max_length), stats.classes(dataset)
    judged, leaks = dataset.validation, dataset.leaks
    validation: Facts = {}
    if judged is not None:
        validation = {"name": judged.name, **judged.facts()}
    leak_facts: Facts = {}
    if leaks is not None:
        leak_facts = {**leaks.facts(), "normalised": leaks.normalized_examples, "near": leaks.near_examples}
    in_recognised = set()  # notes that the table of columns shows already
    for head, roles in heads:
        in_recognised |= {*head.notes, roles.note, unused_note(roles.unused)}
    sections: Facts = {
        "recognised": [_recognised(dataset, i, *one) for i, one in enumerate(heads)],
        "prompts": {name: prompt for name, prompt in dataset.prompts.items() if prompt},
        "counts": {name: value for name, value in dataset.facts.items() if name not in validation | leak_facts},
        "lengths": lengths,
        "classes": classes,
        "per_anchor": stats.per_anchor(dataset.train),
        "scores": stats.scores(dataset.train),
        "examples": _examples(dataset, tokenizer, max_length, seed),
        "repeated": stats.repeated(dataset),
        "validation": validation,
        "leaks": leak_facts,
        "bad_rows": _bad_rows(dataset),
        "notes": [cut(note, stats.WIDTH) for note in dataset.notes if note not in in_recognised],
        "warnings": [*_truncation_warnings(lengths), *stats.class_warnings(classes)],
    }
    return {name: section for name, section in sections.items() if section}


def _recognised(dataset: Dataset, source: int, head: Head, roles: Roles) -> Facts:
    """Return the recognized columns of one source."""
    train = dataset.train
    if train.source is not None:
        train = train.take(train.source == source)
    kinds: dict[str, str | None] = {
        "anchor": _modality(dataset.items, train.anchor),
        "item": _modality(dataset.items, train.anchor),
        "positive": _modality(dataset.items, train.positive),
        "negative": _modality(dataset.items, train.negatives.ravel()),
        "score": "number",
        "weight": "number",
    }
    roles_of = {roles.anchor: "anchor" if roles.positive else "item", roles.positive: "positive"}
    roles_of |= dict.fromkeys(roles.negatives, "negative")
    roles_of |= {roles.score: "score", roles.label: "label", roles.weight: "weight"}
    columns = []
    for column in head.names:
        role = roles_of.get(column, "")
        kind = kinds.get(role) or ""
        if column in roles.lists:
            kind = f"{kind}s in a list"
        columns.append({"column": cut(column), "role": role, "kind": kind})
    notes = [cut(note, stats.WIDTH) for note in (*head.notes, roles.note) if note]
    return {
        "source": cut(dataset.sources[source]),
        "layout": dataset.layouts[source],
        "header": head.named,
        "columns": columns,
        "notes": notes,
    }


def _modality(items: Items, numbers: Ints) -> Modality | None:
    """Return the modality of these items, by the first one that is present."""
    present = numbers[numbers != ABSENT]
    if not len(present):
        return None
    ends = np.cumsum([len(part.values) for part in items.parts])
    return items.parts[int(np.searchsorted(ends, present[0], side="right"))].modality


def _examples(dataset: Dataset, tokenizer: Any | None, max_length: int, seed: int) -> list[Facts]:
    """Return a few relations at random, each with its items as text and as tokens."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset.train))[:EXAMPLES])
    examples = []
    for row in rows.tolist():
        numbers, more = _items_of(dataset.train, row)
        example: Facts = {"items": [_example(dataset.items, *one, tokenizer, max_length) for one in numbers]}
        if more:
            example["more_negatives"] = more
        examples.append(example | _other_columns(dataset, row))
    return examples


def _items_of(train: Relations, row: int) -> tuple[list[tuple[str, int]], int]:
    """Return the items of a relation with their roles, and the number of negatives that are left out."""
    negatives = train.negatives[row][train.negatives[row] != ABSENT]
    numbers = [("item", int(train.anchor[row]))]
    if train.positive[row] != ABSENT:
        numbers = [("anchor", int(train.anchor[row])), ("positive", int(train.positive[row]))]
    numbers += [("negative", int(number)) for number in negatives[:_NEGATIVES]]
    return numbers, max(0, len(negatives) - _NEGATIVES)


def _other_columns(dataset: Dataset, row: int) -> Facts:
    """Return label, score and source of a relation."""
    train, found = dataset.train, {}
    if train.label is not None and train.label[row] != ABSENT:
        found["label"] = cut(dataset.labels[train.label[row]])
    if train.score is not None and np.isfinite(train.score[row]).any():
        scores = train.score[row][np.isfinite(train.score[row])][: 1 + _NEGATIVES]
        found["score"] = ", ".join(f"{score:.4g}" for score in scores)
    if train.source is not None:
        found["source"] = cut(dataset.sources[train.source[row]])
    return found


def _example(items: Items, role: str, number: int, tokenizer: Any | None, max_length: int) -> Facts:
    facts: Facts = {"role": role, "text": shown(items, [number])[0]}
    if tokenizer is None or number >= len(items.texts):
        return facts
    # Only the start of the text is shown: one of many megabytes is not tokenized as a whole.
    text = items.texts[number].as_py()[: 50 * max_length]
    ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    return facts | {"tokens": cut("|".join(tokenizer.convert_ids_to_tokens(ids)), stats.WIDTH), "length": len(ids)}


def _bad_rows(dataset: Dataset) -> Facts:
    """Return the number of rows that were left out, also of validation data, their list, and the first few."""
    if dataset.problems is None:
        skipped = dataset.facts.get("rows_skipped", 0)
        if not skipped:
            return {}
        return {"skipped": skipped}
    with dataset.problems.open(encoding="utf-8") as lines:
        skipped = sum(1 for _ in lines)
    return {"skipped": skipped, "listed_in": str(dataset.problems), "first": _first_lines(dataset.problems)}


def _first_lines(path: Path) -> list[str]:
    lines = []
    with path.open(encoding="utf-8") as file:
        for line in islice(file, _BAD_ROWS):
            row = BadRow(**json.loads(line))
            lines.append(cut(f"{row.file}:{row.line} {row.sentence()}", stats.WIDTH))
    return lines


def _truncation_warnings(lengths: Facts) -> list[str]:
    """Return a warning if more than a few texts of some role are truncated."""
    truncated = [row for row in lengths.get("roles", ()) if row.get("truncated", 0) > _MANY_CUT]
    if not truncated:
        return []
    shares = ", ".join(f"{row['truncated']:.1%} of the {row['role']} texts" for row in truncated)
    enough = f"99% of them have at most {max(row['99'] for row in truncated):,} tokens"
    return [f"Cut at data.max_length={lengths['max_length']} tokens: {shares}; {enough}."]
