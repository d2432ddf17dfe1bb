"""Documents of their own to mine from, which are added to the items of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints, distinct
from finetune.data.bad_rows import BadRows, list_for_user
from finetune.data.items import ABSENT, Items
from finetune.data.known_positives import KnownPositives
from finetune.embed.corpus import TEXT, Corpus, open_corpus
from finetune.embed.settings import checked_settings
from finetune.errors import CheckFailed, Problem

_KEY = "negatives.corpus"


def open_documents(corpus: Mapping[str, Any]) -> Corpus:
    """Return the source that the keys of `negatives.corpus` name: those of `data` in `finetune embed`.

    Raises:
        CheckFailed: with everything that is wrong, at these keys.
    """
    try:
        data, settings = checked_settings({"out": "-", "data": dict(corpus)})
        return open_corpus(data, settings)
    except CheckFailed as failed:
        raise CheckFailed(map(_at_key, failed.problems)) from failed


def read_documents(corpus: Mapping[str, Any]) -> pa.ChunkedArray:
    """Return all texts of the source that the keys name.

    Raises:
        CheckFailed: with everything that is wrong; rows without a text, unless they are to be skipped.
    """
    bad, parts = BadRows(), []
    opened = open_documents(corpus)
    try:
        parts = [table[TEXT] for table in opened.rows(bad)]
    except CheckFailed as failed:
        raise CheckFailed(map(_at_key, failed.problems)) from failed
    rows = sum(map(len, parts))
    if bad.serious and corpus.get("on_bad_rows") != "skip":
        raise CheckFailed(map(_at_key, bad.problems(rows + len(bad), list_for_user(bad))))
    if not rows:
        raise CheckFailed([Problem(f"{_KEY}.path", "has no row with a text.", "Name a file with texts.")])
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.large_string())


def with_documents(
    items: Items, known: KnownPositives, texts: pa.ChunkedArray, prompt: str = ""
) -> tuple[Items, KnownPositives, Ints]:
    """Return the items with these texts after `prompt`, the known positives of all, and the numbers of the texts.

    Items that were there keep their numbers; a text that is one of them is that item.

    Raises:
        CheckFailed: there are other items than texts.
    """
    if len(items) > len(items.texts):
        what = "a corpus is of texts, and the data has other items."
        raise CheckFailed([Problem(_KEY, what, "Leave it out: negatives.corpus=null")])
    if prompt:
        before, between = pa.scalar(prompt, pa.large_string()), pa.scalar("", pa.large_string())
        texts = pa.compute.binary_join_element_wise(before, texts, between)
    more, (_, numbers) = Items.from_columns([items.texts, texts])
    last = np.full(len(more) - len(items), known.offsets[-1])
    group = known.group
    if group is not None:
        group = np.append(group, np.full(len(last), ABSENT))
    known = KnownPositives(np.append(known.offsets, last), known.neighbors, group)
    return more, known, distinct(numbers)


def _at_key(problem: Problem) -> Problem:
    where = problem.where
    if where.startswith("data."):
        where = f"{_KEY}.{where.removeprefix('data.')}"
    return Problem(where, problem.what, problem.advice.replace("data.", f"{_KEY}."), problem.part)
