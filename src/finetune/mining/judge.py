"""Judges: who decides whether a candidate is right after all.

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from finetune.data.arrays import Ints
from finetune.data.items import Items
from finetune.mining.bare_texts import bare_texts
from finetune.mining.retriever import Floats

if TYPE_CHECKING:
    from finetune.inference.model import Model


class PairJudge(Protocol):
    """Scores pairs of items; `gives_scores` says whether they are more than a yes or no."""

    gives_scores: bool

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return how right each document is for its anchor, `(P,)`."""
        ...


class CrossEncoderJudge:
    """Scores pairs by a cross-encoder, many pairs at a time, sorted by length; `prompts` before a text are left out."""

    gives_scores = True

    def __init__(self, model: Model, items: Items, prompts: Sequence[str] = ()) -> None:
        self._model, self._items, self._prompts = model, items, prompts

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return the score of each pair, as the folder of the model scales it."""
        left, right = (bare_texts(self._items, each, self._prompts).to_pylist() for each in (anchors_P, documents_P))
        return self._model.score(list(zip(left, right, strict=True)))
