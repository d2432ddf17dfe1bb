"""Leaks: validation queries that also occur in training, so that the metrics are too optimistic.

N items, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints, distinct
from finetune.data.bad_rows import cut
from finetune.data.holdout.judgments import Judgments
from finetune.data.holdout.near_duplicates import THRESHOLD, find_near_duplicates
from finetune.data.holdout.text_normalization import Bools, EqualityPrefilter, blocks, normalize, strip_prompts
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Relations

EXAMPLES = 3
_WIDTH = 200  # characters of an example
_WIDTH_IN_NOTE = 60

Example = tuple[str, str]


@dataclass(frozen=True)
class Leaks:
    """How many training relations contain a validation query: exactly, after normalization, or nearly.

    A relation counts once, as its closest match. The examples are (training text, validation query). `near` is None if
    near-duplicates were not searched for. `of` is what a relation is called: a pair, or one item with its label.
    """

    exact: int
    normalized: int
    near: int | None = None
    normalized_examples: list[Example] = field(default_factory=list)
    near_examples: list[Example] = field(default_factory=list)
    of: Literal["pair", "item"] = "pair"

    def facts(self) -> dict[str, int | float | str]:
        """Return the numbers that a report shows."""
        facts: dict[str, int | float | str] = {"leaks": self.exact, "leaks_normalised": self.normalized}
        if self.near is not None:
            facts["leaks_near"] = self.near
        return facts

    def notes(self) -> list[str]:
        """Return a sentence for each kind that was found."""
        notes = []
        if self.exact:
            notes.append(f"{self._count(self.exact)} a validation query: the figures will flatter the model.")
        if self.normalized:
            what = "a validation query but for case, spaces, punctuation or accents"
            notes.append(f"{self._count(self.normalized)} {what}{_example(self.normalized_examples)}")
        if self.near:
            what = f"a near-duplicate of a validation query (at least {THRESHOLD:.0%} of the letter triples shared)"
            notes.append(f"{self._count(self.near)} {what}{_example(self.near_examples)}")
        return notes

    def _count(self, number: int) -> str:
        verb = {"pair": "contain", "item": "equal"}[self.of]
        if number == 1:
            return f"1 training {self.of} {verb}s"
        return f"{number:,} training {self.of}s {verb}"


def _example(examples: Sequence[Example]) -> str:
    if not examples:
        return "."
    trained, query = (cut(text, _WIDTH_IN_NOTE) for text in examples[0])
    return f", as '{trained}' in training and '{query}' in the evaluation."


def find_leaks(
    items: Items, train: Relations, judgments: Judgments, *, near: bool = False, prompts: Sequence[str] = ()
) -> Leaks:
    """Return how many training relations contain a validation query.

    A document of the corpus that occurs in training is no leak: that is how retrieval is used. `prompts` are the
    prefixes that texts may have; a text is the same with each of them.
    """
    trained_N = np.zeros(len(items), bool)
    for column in (train.anchor, train.positive):
        trained_N[column[column != ABSENT]] = True
    exact_N = np.zeros(len(items), bool)
    exact_N[judgments.queries] = True
    texts = _Texts(items, judgments.queries, prompts)
    exact, equal = texts.equal(trained_N & ~exact_N)
    exact_N[exact] = True
    equal_N = _flags(equal[0], len(items))
    exact_rows, equal_rows = _rows(train, exact_N), _rows(train, equal_N)
    leaks = Leaks(int(exact_rows.sum()), int((equal_rows & ~exact_rows).sum()))
    leaks = replace(leaks, normalized_examples=texts.examples(*equal))
    if len(train) and (train.positive == ABSENT).all():
        leaks = replace(leaks, of="item")
    if near:
        close = texts.near(trained_N & ~exact_N & ~equal_N)
        near_rows = _rows(train, _flags(close[0], len(items)))
        count = int((near_rows & ~equal_rows & ~exact_rows).sum())
        leaks = replace(leaks, near=count, near_examples=texts.examples(*close))
    return leaks


def _flags(numbers: Ints, items: int) -> Bools:
    flags = np.zeros(items, bool)
    flags[numbers] = True
    return flags


def _rows(train: Relations, flag_N: Bools) -> Bools:
    """Return which relations have a flagged anchor or positive."""
    # Index -1 (an absent positive) reads the last flag, and is masked.
    flagged: Bools = flag_N[train.anchor] | (flag_N[train.positive] & (train.positive != ABSENT))
    return flagged


class _Texts:
    """The texts of a data set, compared with those of the queries."""

    def __init__(self, items: Items, queries: Ints, prompts: Sequence[str]) -> None:
        self.texts, self.prompts = items.texts, [prompt for prompt in prompts if prompt]
        self.queries = distinct(queries[queries < len(items.texts)])
        self.bare = strip_prompts(self.texts.take(pa.array(self.queries)), self.prompts)
        normalized = normalize(self.bare)
        # A text of punctuation only is equal to none.
        self.normalized = pc.if_else(pc.equal(normalized, ""), pa.scalar(None, normalized.type), normalized)

    def equal(self, wanted_N: Bools) -> tuple[Ints, tuple[Ints, Ints]]:
        """Return the wanted items that are a query under another prompt, and those that are one after normalization.

        The latter with the query that each is equal to.
        """
        may_equal = EqualityPrefilter(self.normalized)
        exact, equal, query = ([np.empty(0, np.int64)] for _ in range(3))
        for first, block in blocks(self.texts):
            bare = strip_prompts(block, self.prompts)
            item = np.flatnonzero(may_equal(bare) & wanted_N[first : first + len(block)])
            bare = bare.take(pa.array(item))
            is_exact = _index_in(bare, self.bare) != ABSENT
            found = _index_in(normalize(bare), self.normalized)
            is_equal = ~is_exact & (found != ABSENT)
            exact.append(first + item[is_exact])
            equal.append(first + item[is_equal])
            query.append(self.queries[found[is_equal]])
        return np.concatenate(exact), (np.concatenate(equal), np.concatenate(query))

    def near(self, wanted_N: Bools) -> tuple[Ints, Ints]:
        """Return the wanted items that are a near-duplicate of a query, and the closest query of each."""
        texts = strip_prompts(self.texts, self.prompts)
        found = find_near_duplicates(texts, wanted_N[: len(texts)], self.bare)
        return found.text, self.queries[found.query]

    def examples(self, items: Ints, queries: Ints) -> list[Example]:
        """Return the first few pairs, as texts cut to one line."""

        def shown(numbers: Ints) -> list[str]:
            return [cut(text, _WIDTH) for text in self.texts.take(pa.array(numbers[:EXAMPLES])).to_pylist()]

        return list(zip(shown(items), shown(queries), strict=True))


def _index_in(values: pa.Array, among: pa.Array) -> Ints:
    """Return the first index of each value in `among`, -1 if it is not found."""
    found = pc.fill_null(pc.index_in(values, value_set=among), ABSENT)
    index: Ints = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return index
