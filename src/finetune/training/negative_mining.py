"""Hard negatives of a run: mined with its untouched model before the training, and during it with the model as it is.

Shapes: N items, B training rows, n mined negatives of a row, P relabelled pairs, D width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from finetune.console import say
from finetune.data.arrays import Ints
from finetune.data.batching.datamodule import RelationDataModule
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Relations
from finetune.encoding.collectives import Collectives
from finetune.mining.dense import Dense
from finetune.mining.mine import documents_of, mine
from finetune.mining.mined import Mined
from finetune.mining.retriever import Floats, Retriever, Role
from finetune.mining.settings import OWN, Mining
from finetune.training.evaluation_runner import EvaluationRunner

_EXAMPLES = 5


class NegativeMining:
    """Mines negatives for the training rows of `data`, and has the batches contain them.

    With several processes all of them have to call `update`; each computes its share of embeddings and search. `rounds`
    has the facts of each mining for the report, in the first process.
    """

    def __init__(self, settings: Mining, data: RelationDataModule, runner: EvaluationRunner, seed: int) -> None:
        self.settings = settings
        self.rounds: list[dict[str, Any]] = []
        self.found: tuple[Ints, Ints] | None = None  # negatives (B, n), and pairs (P, 2) of anchors and other positives
        self._data, self._runner, self._seed = data, runner, seed

    @property
    def every_n_steps(self) -> int | None:
        """After how many optimizer steps to mine again; None for never."""
        return self.settings.every_n_steps

    def update(self, collectives: Collectives, step: int) -> None:
        """Mine with the model as it is after `step` optimizer steps, and train with these negatives from now on."""
        start = time.monotonic()
        mined = self._runner.run_in_first(partial(self._mine, collectives, step), collectives)
        if mined is not None:
            self.rounds.append(self._facts(mined, step, time.monotonic() - start))
            say(_summary(mined, self.rounds[-1]))
        found = collectives.broadcast(None if mined is None else (mined.negatives, mined.relabelled))
        assert found is not None
        self.set_found(*found)

    def set_found(self, negatives_Bn: Ints, relabelled_P2: Ints) -> None:
        """Train with these negatives of each row, -1 for none, and other positives of anchors from now on."""
        self.found = negatives_Bn, relabelled_P2
        self._data.set_mined(negatives_Bn, relabelled_P2)

    def _mine(self, collectives: Collectives, step: int) -> Mined:
        dataset = self._data.dataset
        retrievers = self._retrievers(collectives, step)
        documents = documents_of(dataset.train)
        seed = self._seed + step
        return mine(dataset.train, dataset.items, dataset.known, documents, retrievers, self.settings, seed)

    def _retrievers(self, collectives: Collectives, step: int) -> Sequence[Retriever]:
        label = "mining negatives" if step == 0 else f"mining negatives at step {step}"

        def embed(items_N: Ints, role: Role) -> Floats:  # noqa: ARG001 the items have their prompts
            return self._runner.embed(items_N, collectives, label)

        def search(queries_QD: Floats, documents_MD: Floats, k: int) -> tuple[Floats, Ints]:
            return self._runner.search(queries_QD, documents_MD, k, collectives)

        assert self.settings.retrievers == [OWN]
        return [Dense(embed, OWN, search)]

    def _facts(self, mined: Mined, step: int, seconds: float) -> dict[str, Any]:
        dataset = self._data.dataset
        examples = _examples(mined, dataset.train, dataset.items)
        return {"step": step, "seconds": seconds, "examples": examples} | mined.facts(dataset.items)


def _examples(mined: Mined, relations: Relations, items: Items) -> list[dict[str, Any]]:
    """Return a few rows with negatives, spread over all, with their texts and scores."""
    rows = np.flatnonzero((mined.negatives != ABSENT).any(axis=1))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_EXAMPLES, len(rows))).astype(int))]
    examples = []
    for row in rows.tolist():
        places = np.flatnonzero(mined.negatives[row] != ABSENT)
        numbers = np.array([relations.anchor[row], relations.positive[row], *mined.negatives[row, places]])
        anchor, positive, *texts = items.named(numbers)
        positive_score, *scores = mined.scores[row, [0, *places + 1]].tolist()
        negatives = list(zip(texts, scores, strict=True))
        examples.append(
            {"anchor": anchor, "positive": positive, "positive_score": positive_score, "negatives": negatives}
        )
    return examples


def _summary(mined: Mined, facts: dict[str, Any]) -> str:
    found = int((mined.negatives >= 0).sum())
    rows = len(mined.negatives)
    return f"mined {found:,} hard negatives for {rows - mined.short:,} of {rows:,} pairs in {facts['seconds']:.0f} s"
