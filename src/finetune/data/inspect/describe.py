"""A data set described for a person: what was recognised, how much there is, how long, how uneven, and examples.

Everything is plain data that can be written as JSON; texts are cut to one printable line, whatever is in them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
_MANY_CUT = 0.05  # a share of truncated texts that is worth a sentence


def describe(
    dataset: Dataset, heads: Sequence[tuple[Head, Roles]], tokenizer: Any | None, max_length: int, seed: int
) -> Facts:
    """Return everything about a data set; sections that it has nothing for are left out.

    `heads` are the first rows and the column roles of each source. `tokenizer` is a fast tokenizer of transformers, or
    None: then lengths are in characters. `seed` draws the examples.
    """
    lengths, classes = stats.lengths(dataset, tokenizer, max_length), stats.classes(dataset)
    judged, leaks = dataset.validation, dataset.leaks
    of_validation = {"name": judged.name, **judged.facts()} if judged else {}
    of_leaks = {**leaks.facts(), "normalised": leaks.normalised_examples, "near": leaks.near_examples} if leaks else {}
    # The table of columns has those that are not used.
    said = {note for head, roles in heads for note in (*head.notes, roles.note, unused_note(roles.unused))}
    sections: Facts = {
        "recognised": [_recognised(dataset, i, *one) for i, one in enumerate(heads)],
        "prompts": {name: prompt for name, prompt in dataset.prompts.items() if prompt},
        "counts": {name: value for name, value in dataset.facts.items() if name not in of_validation | of_leaks},
        "lengths": lengths,
        "classes": classes,
        "per_anchor": stats.per_anchor(dataset.train),
        "scores": stats.scores(dataset.train),
        "examples": _examples(dataset, tokenizer, max_length, seed),
        "repeated": stats.repeated(dataset),
        "validation": of_validation,
        "leaks": of_leaks,
        "bad_rows": _bad_rows(dataset),
        "notes": [cut(note, stats.WIDTH) for note in dataset.notes if note not in said],
        "warnings": [*_cut_texts(lengths), *stats.class_warnings(classes)],
    }
    return {name: section for name, section in sections.items() if section}


def _recognised(dataset: Dataset, source: int, head: Head, roles: Roles) -> Facts:
    """Return what the columns of one source were taken for."""
    train = dataset.train
    mine = np.arange(len(train)) if train.source is None else np.flatnonzero(train.source == source)
    kinds = {
        "anchor": _modality(dataset.items, train.anchor[mine]),
        "positive": _modality(dataset.items, train.positive[mine]),
        "negative": _modality(dataset.items, train.negatives[mine].ravel()),
    }
    roles_of = {roles.anchor: "anchor" if roles.positive else "item", roles.positive: "positive"}
    roles_of |= dict.fromkeys(roles.negatives, "negative")
    roles_of |= {roles.score: "score", roles.label: "label", roles.weight: "weight"}
    columns = []
    for column in head.names:
        role = roles_of.get(column, "")
        kind = kinds.get(role.replace("item", "anchor")) or ("number" if role in ("score", "weight") else "")
        columns.append(
            {"column": cut(column), "role": role, "kind": f"{kind}s in a list" if column in roles.lists else kind}
        )
    notes = [cut(note, stats.WIDTH) for note in (*head.notes, roles.note) if note]
    return {
        "source": cut(dataset.sources[source]),
        "layout": dataset.layouts[source],
        "header": head.named,
        "columns": columns,
        "notes": notes,
    }


def _modality(items: Items, numbers: Ints) -> Modality | None:
    """Return what kind of item these are, by the first that is there."""
    there = numbers[numbers != ABSENT][:1]
    ends = np.cumsum([len(part.values) for part in items.parts])
    return items.parts[int(np.searchsorted(ends, there[0], side="right"))].modality if len(there) else None


def _examples(dataset: Dataset, tokenizer: Any | None, max_length: int, seed: int) -> list[Facts]:
    """Return a few relations at random, each with its items as text and as tokens."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset.train))[:EXAMPLES])
    examples = []
    for row in rows.tolist():
        numbers, more = _items_of(dataset.train, row)
        example: Facts = {"items": [_example(dataset.items, *one, tokenizer, max_length) for one in numbers]}
        examples.append(example | ({"more_negatives": more} if more else {}) | _said_of(dataset, row))
    return examples


def _items_of(train: Relations, row: int) -> tuple[list[tuple[str, int]], int]:
    """Return the items of a relation with their roles, and how many negatives were left out."""
    paired = train.positive[row] != ABSENT
    negatives = train.negatives[row][train.negatives[row] != ABSENT]
    numbers = [("anchor" if paired else "item", int(train.anchor[row]))]
    numbers += [("positive", int(train.positive[row]))] if paired else []
    numbers += [("negative", int(number)) for number in negatives[:_NEGATIVES]]
    return numbers, max(0, len(negatives) - _NEGATIVES)


def _said_of(dataset: Dataset, row: int) -> Facts:
    """Return what a relation has beside its items."""
    train, said = dataset.train, {}
    if train.label is not None and train.label[row] != ABSENT:
        said["label"] = cut(dataset.labels[train.label[row]])
    if train.score is not None and np.isfinite(train.score[row]).any():
        scores = train.score[row][np.isfinite(train.score[row])][: 1 + _NEGATIVES]
        said["score"] = ", ".join(f"{score:.4g}" for score in scores)
    if train.source is not None:
        said["source"] = cut(dataset.sources[train.source[row]])
    return said


def _example(items: Items, role: str, number: int, tokenizer: Any | None, max_length: int) -> Facts:
    facts: Facts = {"role": role, "text": shown(items, [number])[0]}
    if tokenizer is None or number >= len(items.texts):
        return facts
    # A text of many megabytes need not be tokenised whole to show how it begins.
    text = items.texts[number].as_py()[: 50 * max_length]
    ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    return facts | {"tokens": cut("|".join(tokenizer.convert_ids_to_tokens(ids)), stats.WIDTH), "length": len(ids)}


def _bad_rows(dataset: Dataset) -> Facts:
    """Return how many rows were left out, of validation data too, where all are listed, and the first few."""
    if dataset.problems is None:
        skipped = dataset.facts.get("rows_skipped", 0)
        return {"skipped": skipped} if skipped else {}
    with dataset.problems.open(encoding="utf-8") as lines:
        skipped = sum(1 for _ in lines)
    return {"skipped": skipped, "listed_in": str(dataset.problems), "first": _first_lines(dataset.problems)}


def _first_lines(path: Path) -> list[str]:
    lines = []
    with path.open(encoding="utf-8") as file:
        for line in (json.loads(line) for line, _ in zip(file, range(_BAD_ROWS), strict=False)):
            row = BadRow(**line)
            lines.append(cut(f"{row.file}:{row.line} {row.sentence()}", stats.WIDTH))
    return lines


def _cut_texts(lengths: Facts) -> list[str]:
    """Return a sentence if more than a few texts of some role are longer than is read."""
    many = [row for row in lengths.get("roles", ()) if row.get("truncated", 0) > _MANY_CUT]
    if not many:
        return []
    shares = ", ".join(f"{row['truncated']:.1%} of the {row['role']} texts" for row in many)
    enough = f"99% of them have at most {max(row['99'] for row in many):,} tokens"
    return [f"Cut at data.max_length={lengths['max_length']} tokens: {shares}; {enough}."]
