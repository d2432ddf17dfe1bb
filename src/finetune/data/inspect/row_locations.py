"""Locations of rows in their files, found by their content: line numbers are not stored when reading.

P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints
from finetune.data.bad_rows import BadRows
from finetune.data.open_sources import OpenedSource, open_sources
from finetune.data.prompts import prompts_of
from finetune.data.schema.columns import to_texts
from finetune.errors import CheckFailed

if TYPE_CHECKING:
    from finetune.data.settings import Data

Pair = tuple[str, str]  # the text of an anchor, and that of its positive or the name of its class


def row_locations(data: Data, pairs: Sequence[Pair]) -> list[str | None]:
    """Return `file:line` of the first row of each pair, None if it is not found; reads all sources again.

    Only texts are supported, one per cell, not images, numbers and lists of positives. The texts are as the model sees
    them, with their prompts.
    """
    if not pairs:
        return []
    found: dict[Pair, str] = {}
    try:
        for source in open_sources(data)[0]:
            for pair, location in _find_in_source(source, list(dict.fromkeys(pairs))).items():
                found.setdefault(pair, location)
    except CheckFailed:  # the files were changed or removed since they were read
        pass
    return [found.get(pair) for pair in pairs]


def _find_in_source(opened: OpenedSource, pairs: Sequence[Pair]) -> Mapping[Pair, str]:
    """Return the location of those pairs that are found in one source."""
    roles = opened.roles
    second = roles.positive or roles.label
    if second is None or {roles.anchor, second} & set(roles.lists):
        return {}
    reading = opened.source.read(roles.names, BadRows())
    prompts = prompts_of(opened.settings.data)
    try:
        columns = [to_texts(name, reading.table[name]) for name in (roles.anchor, second)]
    except CheckFailed:  # no texts
        return {}
    prefixes = [prompts.anchor, prompts.positive]
    if not roles.positive:
        prefixes[1] = ""  # names of classes have no prompt
    texts = [[pair[side].removeprefix(prefixes[side]) for pair in pairs] for side in (0, 1)]
    pair_P, row_P = _first_rows(columns, texts)
    locations = reading.locate(row_P)
    return {pairs[pair]: str(location) for pair, location in zip(pair_P, locations, strict=True)}


def _first_rows(columns: Sequence[pa.ChunkedArray], asked: Sequence[Sequence[str]]) -> tuple[Ints, Ints]:
    """Return which pairs are found, and the first row of each, ascending."""
    code, wanted = [], []
    for column, texts in zip(columns, asked, strict=True):
        number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        values = pa.array(list(number_of), pa.large_string())
        code.append(pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy().astype(np.int64))
        wanted.append(np.array([number_of[text] for text in texts], np.int64))
    rows = np.flatnonzero((code[0] >= 0) & (code[1] >= 0))
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    width = len(asked[1])
    key, first = np.unique(code[0][rows] * width + code[1][rows], return_index=True)
    wanted_key = wanted[0] * width + wanted[1]
    index = np.minimum(np.searchsorted(key, wanted_key), len(key) - 1)
    found = np.flatnonzero(key[index] == wanted_key)
    first_row = rows[first[index[found]]]
    order = np.argsort(first_row, kind="stable")
    return found[order], first_row[order]
