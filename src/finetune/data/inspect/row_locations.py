"""Where rows stand in their files, found again by what they hold: what was read keeps no line numbers.

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
from finetune.data.schema.columns import as_texts
from finetune.errors import CheckFailed

if TYPE_CHECKING:
    from finetune.data.settings import Data

Pair = tuple[str, str]  # the text of an anchor, and that of its positive or the name of its class


def places(data: Data, pairs: Sequence[Pair]) -> list[str | None]:
    """Return `file:line` of the first row of each pair, None where there is none; reads all sources once more.

    Only texts are looked for, one to a cell: pictures, numbers and lists of positives have no place. The texts are as
    the model sees them, with their prompts.
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
        columns = [as_texts(name, reading.table[name]) for name in (roles.anchor, second)]
    except CheckFailed:  # no texts
        return {}
    prefixes = [prompts.anchor, prompts.positive]
    if not roles.positive:
        prefixes[1] = ""  # names of classes have no prompt
    texts = [[pair[side].removeprefix(prefixes[side]) for pair in pairs] for side in (0, 1)]
    pair_P, row_P = _first_rows(columns, texts)
    locations = reading.place(row_P)
    return {pairs[pair]: str(location) for pair, location in zip(pair_P, locations, strict=True)}


def _first_rows(columns: Sequence[pa.ChunkedArray], asked: Sequence[Sequence[str]]) -> tuple[Ints, Ints]:
    """Return which pairs are there, and the first row of each, ascending."""
    sets = [list(dict.fromkeys(texts)) for texts in asked]
    code, wanted = [], []
    for column, texts, known in zip(columns, asked, sets, strict=True):
        values = pa.array(known, pa.large_string())
        code.append(pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy().astype(np.int64))
        place = {text: number for number, text in enumerate(known)}
        wanted.append(np.array([place[text] for text in texts], np.int64))
    rows = np.flatnonzero((code[0] >= 0) & (code[1] >= 0))
    width = len(sets[1])
    key, first = np.unique(code[0][rows] * width + code[1][rows], return_index=True)
    of_pair = wanted[0] * width + wanted[1]
    at = np.minimum(np.searchsorted(key, of_pair), max(0, len(key) - 1))
    there = np.flatnonzero(key[at] == of_pair) if len(key) else np.empty(0, np.int64)
    order = np.argsort(rows[first[at[there]]], kind="stable")
    return there[order], rows[first[at[there]]][order]
