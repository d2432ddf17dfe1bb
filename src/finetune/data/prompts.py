"""Prompts: prefixes of texts by their column, such as `query: ` and `passage: `.

N items, M items with their prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT, Items, Part

if TYPE_CHECKING:
    from finetune.data.settings import Data, SourceSettings


@dataclass(frozen=True)
class Prompts:
    """The prefixes of the texts of anchors and of everything that is searched."""

    anchor: str = ""
    positive: str = ""


def prompts_of(settings: Data) -> Prompts:
    """Return the prompts of a source."""
    prompts = settings.prompts or {}
    anchor = prompts.get("anchor", prompts.get("query", ""))
    return Prompts(anchor, prompts.get("positive", prompts.get("document", "")))


def prompts_to_save(sources: Sequence[SourceSettings]) -> dict[str, str]:
    """Return the prompts by the names that sentence-transformers uses; after the first, prefixed with the source."""
    by_name: dict[str, str] = {}
    for source in sources:
        prompts = prompts_of(source.data)
        prefix = f"{source.name}_" if by_name else ""
        if prompts.anchor or prompts.positive:
            by_name |= {f"{prefix}query": prompts.anchor, f"{prefix}document": prompts.positive}
    return by_name


def with_prompts(items: Items, columns: Sequence[Ints], prompts: Sequence[str]) -> tuple[Items, list[Ints], Ints]:
    """Return items with their prompts, the columns renumbered to them, and the old number of each item, (M,).

    `columns` are item numbers (of any shape), `prompts` the prompt of each column. The same text under two prompts is
    encoded twice, so it becomes two items; these are twins, which no loss may push apart. Items that are not text have
    no prompt.
    """
    if not any(prompts):
        return items, list(columns), np.arange(len(items))
    distinct_prompts = list(dict.fromkeys(["", *prompts]))
    texts = len(items.texts)
    # One number for each (prompt, item): sorted, they are the new items by prompt; other modalities come last.
    keys = []
    for column, prompt in zip(columns, prompts, strict=True):
        keys.append(_keys(column, distinct_prompts.index(prompt), len(items), texts))
    used_M = np.unique(np.concatenate([key[key != ABSENT] for key in keys]))
    is_text = used_M % len(items) < texts
    used_M = np.concatenate([used_M[is_text], used_M[~is_text]])
    order = np.argsort(used_M)
    numbered = []
    for key in keys:
        number = order[np.searchsorted(used_M, key, sorter=order) % len(order)]
        numbered.append(np.where(key == ABSENT, ABSENT, number))
    return _add_prompts(items, used_M, distinct_prompts), numbered, used_M % len(items)


def _keys(column: Ints, prompt: int, items: int, texts: int) -> Ints:
    keys: Ints = np.where((column == ABSENT) | (column >= texts), column, prompt * items + column)
    return keys


def _add_prompts(items: Items, used_M: Ints, prompts: list[str]) -> Items:
    item_M, prompt_M = used_M % len(items), used_M // len(items)
    texts = item_M < len(items.texts)
    values = items.texts.take(pa.array(item_M[texts]))
    prefixes = pa.array(prompts, pa.large_string()).take(pa.array(prompt_M[texts]))
    with_prefix = pc.binary_join_element_wise(prefixes, values, pa.scalar("", pa.large_string()))
    others = items.keep(np.concatenate([np.empty(0, np.int64), np.sort(item_M[~texts])]))
    return Items((Part("text", with_prefix), *others.parts[1:]))


def twins(raw_M: Ints) -> Ints:
    """Return the pairs of items that differ only in their prompts, (E, 2); `raw_M` are the items without prompts."""
    order = np.argsort(raw_M, kind="stable")
    pairs = [np.empty((0, 2), np.int64)]
    for apart in range(1, len(order)):
        same = raw_M[order[apart:]] == raw_M[order[:-apart]]
        if not same.any():
            break
        pairs.append(np.column_stack([order[:-apart][same], order[apart:][same]]))
    return np.concatenate(pairs)


def under_all_prompts(raw_M: Ints, left: Ints, right: Ints) -> tuple[Ints, Ints]:
    """Return pairs of items, (E,) each, and the same pairs of their twins."""
    pair_T2 = twins(raw_M)
    if not len(pair_T2):
        return left, right
    order = np.argsort(raw_M, kind="stable")
    start_M = np.searchsorted(raw_M[order], raw_M)
    count_M = np.searchsorted(raw_M[order], raw_M, side="right") - start_M
    lefts, rights = [], []
    for i in range(int(count_M.max(initial=0))):
        for j in range(int(count_M.max(initial=0))):
            exist = (i < count_M[left]) & (j < count_M[right])
            lefts.append(order[start_M[left[exist]] + i])
            rights.append(order[start_M[right[exist]] + j])
    return np.concatenate([*lefts, pair_T2[:, 0]]), np.concatenate([*rights, pair_T2[:, 1]])
