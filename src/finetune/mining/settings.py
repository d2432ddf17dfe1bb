"""What is mined and what is left out: the keys of the config group `negatives`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from finetune.config.types import (
    CountFromZero,
    NotEmpty,
    NotEmptyText,
    NotNegative,
    Positive,
    PositiveFraction,
    PositiveInt,
)

OWN = "own"  # the retriever that is the model itself: that of the run, or the one that `finetune mine` is given
BM25 = "bm25"


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who decides which candidates are right after all: a cross-encoder, or a model behind an OpenAI-compatible API.

    `model` is a run, a folder or a hub id of a cross-encoder; with `endpoint` (as http://localhost:8000/v1) the name
    of the model there, whose key is read from the environment variable `key_variable`. A candidate with a score of at
    least `threshold` is no negative; with `relabel` it becomes a positive of its anchor. Without `model` nothing is
    judged.
    """

    model: NotEmptyText | None
    threshold: float
    relabel: bool
    endpoint: NotEmptyText | None
    key_variable: NotEmptyText
    prompt: NotEmptyText
    concurrency: PositiveInt
    retries: CountFromZero
    timeout: Positive


@dataclass(frozen=True, kw_only=True)
class Mining:
    """How negatives are mined for the rows of the data; the keys are those of `conf/negatives/dense.yaml`.

    `retrievers` are `bm25`, `own`, or models (a run, a folder, a hub id); the results of several are joined by
    reciprocal rank. `count` negatives of a row are taken from the ranks `first_rank` to `last_rank` of the documents,
    counted from 1 and before anything is left out: the first ones (`pick=top`) or any of them (`random`).

    A candidate is left out if its score exceeds `max_share_of_positive` of the score of the row's positive, or that
    score minus `margin`, or `max_score`, or is below `min_score`; see `finetune.mining.filters`. `near_duplicates`
    leaves out texts that hardly differ from the anchor or one of its positives.

    `corpus` are the keys of a source of documents, as `{path: corpus.jsonl}`; None for the documents of the data.
    `every_n_steps` mines again during a training, with the model as it is then.
    """

    retrievers: Annotated[list[NotEmptyText], NotEmpty()]
    count: PositiveInt
    first_rank: PositiveInt
    last_rank: PositiveInt
    pick: Literal["top", "random"]
    max_share_of_positive: PositiveFraction | None
    margin: NotNegative | None
    min_score: float | None
    max_score: float | None
    near_duplicates: bool
    corpus: dict[str, Any] | None
    index: Literal["exact", "usearch"]
    judge: Judge
    every_n_steps: PositiveInt | None


@dataclass(frozen=True, kw_only=True)
class MinedFile:
    """Negatives that `finetune mine` wrote to a file: `path`, of which each row has at most `count`."""

    path: NotEmptyText
    count: PositiveInt | None
