"""Distributions of a data set, as plain data: lengths, scores, sizes of classes, repeated items.

Everything returned can be written as JSON. N items, B relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from finetune.data.arrays import Ints, distinct
from finetune.data.bad_rows import cut
from finetune.data.dataset import Dataset
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Relations

PERCENTILES = (5, 25, 50, 75, 95, 99)
BARS = 10  # of a histogram, at most
LARGEST = 5  # classes that are named, texts that are repeated
WIDTH = 300  # characters of a text
_MOST_TOKENIZED = (100_000, 8_000_000)  # texts of a role, and their characters; beyond that a sample is tokenized
_FEW_CLASSES = 10
_UNEVEN = 20  # times the median: a class this large is in nearly every batch

Facts = dict[str, Any]


def spread(values: npt.NDArray[Any]) -> dict[str, int | float]:
    """Return minimum, percentiles and maximum of some numbers; empty if there are none."""
    if not len(values):
        return {}
    found = np.percentile(values, (0, *PERCENTILES, 100), method="nearest").tolist()
    names = ("min", *map(str, PERCENTILES), "max")
    return {name: _short(value) for name, value in zip(names, found, strict=True)}


def _short(value: float) -> int | float:
    """Return a float rounded to 4 digits."""
    if isinstance(value, int):
        return value
    return float(f"{value:.4g}")


def histogram(named: dict[str, npt.NDArray[Any]]) -> Facts:
    """Return the shares of several samples in common bins: from `edges[i]` to below the next; the last is open."""
    if not any(map(len, named.values())):
        return {}
    all_values = np.concatenate(list(named.values()))
    low, high = float(all_values.min()), float(np.percentile(all_values, 99))
    whole = all_values.dtype.kind == "i"
    step = _round_step((high - low) / BARS, whole=whole)
    first = np.floor(low / step)
    edges = (first + np.arange(max(1, int(np.floor(high / step) - first) + 1))) * step
    shares = {}
    for name, values in named.items():
        # A value on an edge belongs above it, also if rounding puts it slightly below.
        place = np.searchsorted(edges - 1e-6 * step, values, side="right") - 1
        counts = np.bincount(np.maximum(place, 0), minlength=len(edges))
        shares[name] = [_short(float(share)) for share in counts / max(1, len(values))]
    # 12 digits remove the rounding errors of multiples of a round number.
    shown = [float(f"{edge:.12g}") for edge in edges.tolist()]
    return {"edges": list(map(int, edges.tolist())) if whole else shown, "shares": shares}


def _round_step(step: float, *, whole: bool) -> float:
    """Return the next larger of 1, 2, 5, 10, 20, … (or 0.1, 0.2, … for fractions)."""
    if step <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(step))
    large_enough = [power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9)]
    rounded = float(large_enough[0])
    if whole:
        return max(1.0, rounded)
    return rounded


def roles(dataset: Dataset) -> dict[str, Ints]:
    """Return the distinct items of each role that occurs: of the relations, then of the evaluation data."""
    train = dataset.train
    paired = bool((train.positive != ABSENT).any())
    first = "anchor" if paired else "item"
    columns = {first: train.anchor, "positive": train.positive, "negative": train.negatives}
    if dataset.validation is not None:
        columns |= {"query": dataset.validation.queries, "corpus": dataset.validation.corpus}
    found = {name: distinct(column.ravel()) for name, column in columns.items()}
    found = {name: items[items != ABSENT] for name, items in found.items()}
    return {name: items for name, items in found.items() if len(items)}


def lengths(dataset: Dataset, tokenizer: Any | None, max_length: int) -> Facts:
    """Return the lengths of the texts of each role: in tokens, special tokens included, or in characters.

    `tokenizer` is a fast tokenizer of transformers. Of very many texts only a random sample is tokenized (`measured`).
    """
    texts = dataset.items.texts
    characters = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    of_role = {name: items[items < len(texts)] for name, items in roles(dataset).items()}
    of_role = {name: items for name, items in of_role.items() if len(items)}
    if not of_role:
        return {}
    measured, length_N, unit, note = of_role, characters, "characters", None
    if tokenizer is not None:
        measured = {name: _sample(items, characters) for name, items in of_role.items()}
        length_N, note = _token_lengths(dataset.items, tokenizer, measured)
        unit = "tokens"
    rows = []
    for name, items in measured.items():
        row: Facts = {"role": name, "texts": len(of_role[name]), "measured": len(items), **spread(length_N[items])}
        if tokenizer is not None:
            row["truncated"] = _short(float((length_N[items] > max_length).mean()))
        rows.append(row)
    trained = {name: length_N[items] for name, items in measured.items() if name not in ("query", "corpus")}
    facts = {"unit": unit, "max_length": max_length, "roles": rows, "histogram": histogram(trained)}
    if note is not None:
        facts["note"] = note
    return facts


def _sample(items: Ints, characters: npt.NDArray[Any]) -> Ints:
    """Return a random sample of the items that is tokenized in about a second."""
    mean = max(1.0, float(characters[items].mean()))
    most = max(100, min(_MOST_TOKENIZED[0], int(_MOST_TOKENIZED[1] / mean)))
    if len(items) <= most:
        return items
    return np.sort(np.random.default_rng(0).choice(items, most, replace=False))


def _token_lengths(items: Items, tokenizer: Any, measured: dict[str, Ints]) -> tuple[Ints, str | None]:
    """Return the token count of each measured text without truncation, (N,), 0 for the rest; and a note about them."""
    from finetune.data.tokens.token_store import Tokens

    sample = distinct(np.concatenate(list(measured.values())))
    texts = items.keep(sample)
    uncut = Tokens.build(texts, tokenizer, 1_000_000)
    length_N = np.zeros(len(items.texts), np.int64)
    length_N[sample] = uncut.lengths
    return length_N, uncut.note(texts)


def classes(dataset: Dataset) -> Facts:
    """Return the sizes of the classes; empty if there are none."""
    label = dataset.train.label
    if label is None or not (label != ABSENT).any():
        return {}
    members = np.bincount(label[label != ABSENT])
    used = np.flatnonzero(members)
    largest = used[np.argsort(-members[used], kind="stable")][:LARGEST]
    return {
        "number": len(used),
        "smallest": int(members[used].min()),
        "median": _short(float(np.median(members[used]))),
        "largest": int(members.max()),
        "names": {cut(dataset.labels[i], WIDTH): int(members[i]) for i in largest},
    }


def class_warnings(found: Facts) -> list[str]:
    """Return warnings about few or uneven classes."""
    if not found:
        return []
    warnings = []
    if found["number"] < _FEW_CLASSES:
        many = f"Only {found['number']} {'class' if found['number'] == 1 else 'classes'}"
        warnings.append(f"{many}: the model learns to tell these apart, and may learn little else.")
    if found["largest"] > _UNEVEN * found["median"]:
        sizes = f"the largest has {found['largest']:,} items, half of them have {found['median']:,.6g} or fewer"
        warnings.append(f"The classes are very uneven: {sizes}.")
    return warnings


def per_anchor(train: Relations) -> Facts:
    """Return how many anchors have one positive, two, …, and how many negatives the rows have."""
    paired = train.positive != ABSENT
    if not paired.any():
        return {}
    items = int(train.positive.max()) + 1
    pairs = distinct(train.anchor[paired] * items + train.positive[paired])
    counts = np.bincount(pairs // items)
    counts = counts[counts > 0]
    bounds = [1, 2, 3, 5, 10, 100]
    anchors = np.bincount(np.searchsorted(bounds, counts, side="right") - 1, minlength=len(bounds))
    names = ("1", "2", "3-4", "5-9", "10-99", "100+")
    facts: Facts = {
        "anchors": len(counts),
        "mean": _short(float(counts.mean())),
        "max": int(counts.max()),
        "positives": {name: int(number) for name, number in zip(names, anchors, strict=True) if number},
    }
    if train.negatives.size:
        facts["negatives_per_row"] = spread((train.negatives != ABSENT).sum(1))
    return facts


def scores(train: Relations) -> Facts:
    """Return the distribution of the scores of positives and of negatives; by value if there are few values."""
    if train.score is None:
        return {}
    parts = {"positive": train.score[:, 0], "negative": train.score[:, 1:].ravel()}
    parts = {name: values[np.isfinite(values)] for name, values in parts.items()}
    parts = {name: values for name, values in parts.items() if len(values)}
    facts: Facts = {
        "roles": [{"role": name, "scores": len(values), **spread(values)} for name, values in parts.items()]
    }
    values, counts = np.unique(np.concatenate([np.empty(0), *parts.values()]), return_counts=True)
    if len(values) > BARS:
        return facts | {"histogram": histogram(parts)}
    return facts | {"values": {f"{value:.4g}": int(count) for value, count in zip(values, counts, strict=True)}}


def repeated(dataset: Dataset) -> list[Facts]:
    """Return the items that occur in the most rows, with their role and number of rows; only repeated ones."""
    train = dataset.train
    columns = {"anchor": train.anchor, "positive": train.positive[train.positive != ABSENT]}
    found: list[tuple[int, str, int]] = []
    for role, column in columns.items():
        times = np.bincount(column, minlength=1)
        found += [(int(times[item]), role, int(item)) for item in _largest(times) if times[item] > 1]
    found.sort(key=lambda entry: (-entry[0], entry[2]))
    found = found[:LARGEST]
    texts = shown(dataset.items, [item for *_, item in found])
    return [{"rows": rows, "role": role, "text": text} for (rows, role, _), text in zip(found, texts, strict=True)]


def _largest(times: Ints) -> Ints:
    """Return the indices of the largest numbers, in descending order."""
    if len(times) <= LARGEST:
        return np.argsort(-times, kind="stable")
    # Not a sort of all: there may be millions.
    top = np.argpartition(-times, LARGEST)[:LARGEST]
    return top[np.lexsort((top, -times[top]))]


def shown(items: Items, numbers: Sequence[int] | Ints) -> list[str]:
    """Return items as texts that are safe to print, each on one line."""
    return [cut(text, WIDTH) for text in items.take(np.asarray(numbers, np.int64))]
