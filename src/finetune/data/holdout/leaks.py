"""Leaks: texts that are both trained on and asked for in the evaluation, so that the figures flatter the model.

N items, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints, distinct
from finetune.data.bad_rows import cut
from finetune.data.holdout.judgments import Judgments
from finetune.data.holdout.near_duplicates import THRESHOLD, find_near
from finetune.data.holdout.text_normalization import Bools, EqualityPrefilter, blocks, fold, without_fronts
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Relations

EXAMPLES = 3
_WIDTH = 200  # characters of an example
_WIDTH_IN_NOTE = 60

Example = tuple[str, str]


@dataclass(frozen=True)
class Leaks:
    """How many training relations contain a validation query: exactly, but for case and spaces, or nearly.

    A relation counts once, where it is closest. The examples are (training text, validation query). `near` is None if
    it was not looked for. `of` says what a relation is called: a pair, or one item with its label.
    """

    exact: int
    normalised: int
    near: int | None = None
    normalised_examples: list[Example] = field(default_factory=list)
    near_examples: list[Example] = field(default_factory=list)
    of: Literal["pair", "item"] = "pair"

    def facts(self) -> dict[str, int | float | str]:
        """Return the numbers that a report shows."""
        near: dict[str, int | float | str] = {} if self.near is None else {"leaks_near": self.near}
        return {"leaks": self.exact, "leaks_normalised": self.normalised} | near

    def notes(self) -> list[str]:
        """Return what is to be said about them."""
        notes = []
        if self.exact:
            notes.append(f"{self._count(self.exact)} a validation query: the figures will flatter the model.")
        if self.normalised:
            what = "a validation query but for case, spaces, punctuation or accents"
            notes.append(f"{self._count(self.normalised)} {what}{_as(self.normalised_examples)}")
        if self.near:
            what = f"a near-duplicate of a validation query (at least {THRESHOLD:.0%} of the letter triples shared)"
            notes.append(f"{self._count(self.near)} {what}{_as(self.near_examples)}")
        return notes

    def _count(self, number: int) -> str:
        verb = {"pair": ("contains", "contain"), "item": ("equals", "equal")}[self.of]
        return f"{number:,} training {self.of}{'' if number == 1 else 's'} {verb[number != 1]}"


def _as(examples: Sequence[Example]) -> str:
    if not examples:
        return "."
    trained, asked = (cut(text, _WIDTH_IN_NOTE) for text in examples[0])
    return f", as '{trained}' in training and '{asked}' in the evaluation."


def find_leaks(
    items: Items, train: Relations, judgments: Judgments, *, near: bool = False, prompts: Sequence[str] = ()
) -> Leaks:
    """Return what the training relations and the validation queries have in common.

    That a document of the corpus occurs in training is how retrieval is used, and is no leak. `prompts` are what texts
    may begin with because of their column: a text is the same under each of them.
    """
    trained_N = np.zeros(len(items), bool)
    for column in (train.anchor, train.positive):
        trained_N[column[column != ABSENT]] = True
    exact_N = np.zeros(len(items), bool)
    exact_N[judgments.queries] = True
    texts = _Texts(items, judgments.queries, prompts)
    exact, same = texts.same(trained_N & ~exact_N)
    exact_N[exact] = True
    same_N = _flags(same[0], len(items))
    close: tuple[Ints, Ints] = texts.near(trained_N & ~exact_N & ~same_N) if near else same
    rows, same_rows = _rows(train, exact_N), _rows(train, same_N)
    near_rows = _rows(train, _flags(close[0], len(items)))
    return Leaks(
        int(rows.sum()),
        int((same_rows & ~rows).sum()),
        int((near_rows & ~same_rows & ~rows).sum()) if near else None,
        texts.examples(*same),
        texts.examples(*close) if near else [],
        "item" if len(train) and (train.positive == ABSENT).all() else "pair",
    )


def _flags(numbers: Ints, items: int) -> Bools:
    flags = np.zeros(items, bool)
    flags[numbers] = True
    return flags


def _rows(train: Relations, flag_N: Bools) -> Bools:
    """Return which relations have a flagged anchor or positive."""
    # Place -1 is read too, and does not count.
    flagged: Bools = flag_N[train.anchor] | (flag_N[train.positive] & (train.positive != ABSENT))
    return flagged


class _Texts:
    """The texts of a data set beside those that are asked."""

    def __init__(self, items: Items, queries: Ints, prompts: Sequence[str]) -> None:
        self.texts, self.prompts = items.texts, [prompt for prompt in prompts if prompt]
        self.asked = distinct(queries[queries < len(items.texts)])
        self.bare = without_fronts(self.texts.take(pa.array(self.asked)), self.prompts)
        folded = fold(self.bare)
        # What is nothing but punctuation is equal to nothing.
        self.folded = pc.if_else(pc.equal(folded, ""), pa.scalar(None, folded.type), folded)

    def same(self, wanted_N: Bools) -> tuple[Ints, tuple[Ints, Ints]]:
        """Return the wanted items that are a query under another prompt, and those that are one when folded.

        The latter with the query that each is equal to.
        """
        may_equal = EqualityPrefilter(self.folded)
        exact, same, query = ([np.empty(0, np.int64)] for _ in range(3))
        for first, block in blocks(self.texts):
            bare = without_fronts(block, self.prompts)
            item = np.flatnonzero(may_equal(bare) & wanted_N[first : first + len(block)])
            bare = bare.take(pa.array(item))
            equal = _places(bare, self.bare) != ABSENT
            found = _places(fold(bare), self.folded)
            exact.append(first + item[equal])
            same.append(first + item[~equal & (found != ABSENT)])
            query.append(self.asked[found[~equal & (found != ABSENT)]])
        return np.concatenate(exact), (np.concatenate(same), np.concatenate(query))

    def near(self, wanted_N: Bools) -> tuple[Ints, Ints]:
        """Return the wanted items that are a near-duplicate of a query, and the closest query of each."""
        texts = without_fronts(self.texts, self.prompts)
        found = find_near(texts, wanted_N[: len(texts)], self.bare)
        return found.text, self.asked[found.query]

    def examples(self, items: Ints, queries: Ints) -> list[Example]:
        """Return the first few, as texts cut to one line."""

        def shown(numbers: Ints) -> list[str]:
            return [cut(text, _WIDTH) for text in self.texts.take(pa.array(numbers[:EXAMPLES])).to_pylist()]

        return list(zip(shown(items), shown(queries), strict=True))


def _places(values: pa.Array, among: pa.Array) -> Ints:
    """Return the first place of each value in `among`, -1 if it is not there."""
    found = pc.fill_null(pc.index_in(values, value_set=among), ABSENT)
    places: Ints = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return places
