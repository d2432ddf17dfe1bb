"""An encoder measured by the run's evaluators: what they ask for is embedded, or scored, by the engine.

Shapes: N items, P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.console import Bar
from finetune.data.arrays import Ints
from finetune.data.datamodule import RelationDataModule
from finetune.data.tokens import Tokens
from finetune.evaluation.retrieval import RetrievalResult
from finetune.models.encoder import Encoder
from finetune.training.engine import Engine

Floats = NDArray[np.float32]


class Measure:
    """What the run has to measure with; `when` it does so stands beside the progress."""

    def __init__(self, encoder: Encoder, engine: Engine, data: RelationDataModule, max_length: int) -> None:
        self._encoder, self._engine, self._data = encoder, engine, data
        self._pairing = encoder.pairing(max_length)

    def __call__(self, evaluators: Mapping[str, Any], device: torch.device, when: str) -> dict[str, RetrievalResult]:
        """Return what each evaluator found on the validation judgments; nothing where there are none.

        Raises:
            FinetuneError: there is nothing right to be found, or an embedding is no number.
        """
        judgments = self._data.dataset.validation
        if judgments is None or not evaluators:
            return {}
        # Always fp32, whatever it trains in: that is how the saved model will be used and compared.
        self._encoder.to(device).float().eval()
        found = {}
        for name, evaluator in evaluators.items():
            give = self._rate if evaluator.takes_scores else self._embed
            found[name] = evaluator.evaluate(judgments, lambda *items, give=give: give(f"evaluating {when}", *items))
        return found

    def embeddings(self, items: Ints, device: torch.device, what: str) -> Floats:
        """Return the embeddings `(N, D)` of items by number; `what` stands beside the progress."""
        self._encoder.to(device).float().eval()
        return self._embed(what, items)

    def _embed(self, what: str, items: Ints) -> Floats:
        emb_ND = np.empty((len(items), self._encoder.width), np.float32)
        self._fill(emb_ND, what, "items", self._data.tokens, items)
        return emb_ND

    def _rate(self, what: str, left_P: Ints, right_P: Ints) -> Floats:
        if self._pairing is None:
            items_N, place = np.unique(np.concatenate([left_P, right_P]), return_inverse=True)
            emb_ND = self._embed(what, items_N)
            score_P: Floats = (emb_ND[place[: len(left_P)]] * emb_ND[place[len(left_P) :]]).sum(1)
            return score_P
        score_P1 = np.empty((len(left_P), 1), np.float32)
        ids_T2, lengths_P = self._pairing.of_items(self._data.tokens, left_P, right_P)
        pairs = Tokens(ids_T2, np.concatenate([[0], np.cumsum(lengths_P)]))
        self._fill(score_P1, what, "pairs", pairs, np.arange(len(left_P)))
        return score_P1[:, 0]

    def _fill(self, found: Floats, what: str, unit: str, tokens: Tokens, items: Ints) -> None:
        done = 0
        with Bar(what, len(items), unit) as bar:
            for rows, part in self._engine.embed(self._encoder, tokens, items, self._data.others):
                found[rows] = part.cpu().numpy()
                done += len(rows)
                bar.update(done)
