"""What a training mines from: the items of its data with those of a corpus, or negatives that are in a file.

Shapes: B training rows, n negatives of a row, U distinct pairs of a file, E negatives in a file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.dataset import Dataset
from finetune.data.items import ABSENT
from finetune.data.relations import Relations
from finetune.data.settings import Data, default_values
from finetune.errors import CheckFailed, Problem
from finetune.mining.checks import check_items, check_rows
from finetune.mining.corpus import read_documents, with_documents
from finetune.mining.equal_texts import RightPairs, equal_texts
from finetune.mining.mine import documents_of
from finetune.mining.settings import MinedFile, Mining


@dataclass(frozen=True)
class MiningInputs:
    """A data set, whose items include all `documents` (item numbers, ascending) that negatives are taken from.

    `given (B, n)` are the negatives of its training rows if they are from a file, -1 for none.
    """

    dataset: Dataset
    documents: Ints
    given: Ints | None = None


def mining_inputs(settings: Mining | MinedFile, dataset: Dataset, data: Data) -> MiningInputs:
    """Return what is mined from; reads the corpus or the file. `data` are the settings of the data set.

    Raises:
        CheckFailed: there is nothing to mine for or from, or the corpus or the file cannot be read.
    """
    check_rows(dataset)
    prompt = dataset.prompts.get("document", "")
    if isinstance(settings, MinedFile):
        return _from_file(settings, dataset, data)
    documents = documents_of(dataset.train)
    if settings.corpus is not None:
        texts = read_documents(settings.corpus)
        items, known, documents = with_documents(dataset.items, dataset.known, texts, prompt)
        dataset = replace(dataset, items=items, known=known)
    check_items(settings, dataset.items, len(documents))
    return MiningInputs(dataset, documents)


def file_settings(settings: MinedFile, data: Data) -> Data:
    """Return the settings by which a file of negatives is read: with the prompts of the data, and nothing held out."""
    own = {"path": settings.path, "validation_path": None, "validation_fraction": 0.0, "batch_size": 2}
    return Data(**(default_values() | own | {"prompts": data.prompts, "cache": data.cache}))


def _from_file(settings: MinedFile, dataset: Dataset, data: Data) -> MiningInputs:
    from finetune.data.load import load

    try:
        found = load(file_settings(settings, data), seed=0)
    except CheckFailed as failed:
        raise CheckFailed(map(at_negatives_path, failed.problems)) from failed
    texts = pa.chunked_array([found.items.texts])
    items, known, _ = with_documents(dataset.items, dataset.known, texts)
    dataset = replace(dataset, items=items, known=known)
    numbers = _numbers_in(dataset, texts)
    right = RightPairs(known, equal_texts(items, list(dataset.prompts.values())))
    given = _matched(dataset.train, found.train, numbers, right, settings.count)
    if (given == ABSENT).all():
        what = f"'{settings.path}' has negatives for none of the {len(dataset.train):,} training pairs."
        advice = "Make it from the same data: finetune mine data.path=... out=mined.parquet"
        raise CheckFailed([Problem("negatives.path", what, advice)])
    return MiningInputs(dataset, np.setdiff1d(given, [ABSENT]), given)


def _numbers_in(dataset: Dataset, texts: pa.ChunkedArray) -> Ints:
    """Return the item number of each text, all of which are items."""
    index = pa.compute.index_in(texts, dataset.items.texts)
    numbers: Ints = index.to_numpy().astype(np.int64)
    return numbers


def _matched(train: Relations, found: Relations, numbers: Ints, right: RightPairs, count: int | None) -> Ints:
    """Return the negatives `(B, n)` that the rows `found` of a file have for the pairs of the training rows.

    `numbers` are the item numbers of the items of the file. Several rows may have negatives of the same pair; those
    that are `right` are left out.
    """
    row_E, place_E = np.nonzero(found.negatives != ABSENT)
    anchor_E, negative_E = numbers[found.anchor[row_E]], numbers[found.negatives[row_E, place_E]]
    items = int(max(train.columns().max(), numbers.max())) + 1
    pair_E = anchor_E * items + numbers[found.positive[row_E]]
    is_wrong_E = ~right.among(anchor_E, negative_E)
    pair_E, negative_E = pair_E[is_wrong_E], negative_E[is_wrong_E]
    _, first = np.unique(np.column_stack([pair_E, negative_E]), axis=0, return_index=True)
    first = np.sort(first)
    order = first[np.argsort(pair_E[first], kind="stable")]
    pair_E, negative_E = pair_E[order], negative_E[order]
    pair_U, start_U, count_U = np.unique(pair_E, return_index=True, return_counts=True)
    rank_E = np.arange(len(pair_E)) - np.repeat(start_U, count_U)
    width = int(count_U.max(initial=0))
    if count is not None:
        width = min(width, count)
    table = np.full((len(pair_U) + 1, width), ABSENT)  # the last row is for pairs without any
    kept = rank_E < width
    table[np.searchsorted(pair_U, pair_E[kept]), rank_E[kept]] = negative_E[kept]
    pair_B = train.anchor * items + train.positive
    place_B = np.minimum(np.searchsorted(pair_U, pair_B), max(0, len(pair_U) - 1))
    is_there_B = np.zeros(len(pair_B), bool) if not len(pair_U) else pair_U[place_B] == pair_B
    matched: Ints = table[np.where(is_there_B, place_B, len(pair_U))]
    return matched


def at_negatives_path(problem: Problem) -> Problem:
    """Return a problem of the data that a file of negatives is, at the key of the file."""
    where = problem.where.replace("data.path", "negatives.path")
    return Problem(where, problem.what, problem.advice.replace("data.path", "negatives.path"), problem.part)
