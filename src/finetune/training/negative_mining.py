"""Hard negatives of a run: mined with its untouched model before the training, and during it with the model as it is.

Shapes: N items, B training rows, n mined negatives of a row, P relabelled pairs, D width.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from finetune.console import say
from finetune.data.arrays import Ints
from finetune.data.batching.datamodule import RelationDataModule
from finetune.data.items import ABSENT, Items
from finetune.data.relations import Relations
from finetune.data.tokens.token_store import key_of
from finetune.encoding.collectives import Collectives
from finetune.mining.build import build_judge, build_retrievers
from finetune.mining.cached import CachedRetriever, CachedVectors
from finetune.mining.dense import Dense, approximate
from finetune.mining.inputs import MiningInputs
from finetune.mining.mine import mine
from finetune.mining.mined import Mined
from finetune.mining.retriever import Floats, Retriever, Role
from finetune.mining.settings import OWN, MinedFile, Mining
from finetune.models.digest import digest_of_weights
from finetune.training.evaluation_runner import EvaluationRunner

_EXAMPLES = 5


class NegativeMining:
    """Mines negatives for the training rows of `data`, and has the batches contain them.

    `inputs` are the documents to mine from, whose items are those of `data`. With several processes all of them have to
    call `update`; each computes its share of embeddings and search. `rounds` has the facts of each mining, in the first
    process. `identity` is what embeddings of the untouched model depend on apart from weights and tokens (of texts cut
    at `max_length`); with it they are kept in the cache.
    """

    def __init__(
        self,
        settings: Mining | MinedFile,
        inputs: MiningInputs,
        data: RelationDataModule,
        runner: EvaluationRunner,
        seed: int,
        max_length: int,
        identity: tuple[str, ...] | None = None,
    ) -> None:
        self.settings = settings
        self.rounds: list[dict[str, Any]] = []
        self.found: tuple[Ints, Ints] | None = None  # negatives (B, n), and pairs (P, 2) of anchors and other positives
        self._inputs, self._data, self._runner, self._seed = inputs, data, runner, seed
        self._max_length, self._identity = max_length, identity

    @property
    def every_n_steps(self) -> int | None:
        """After how many optimizer steps to mine again; None for never."""
        if isinstance(self.settings, MinedFile):
            return None
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
        settings, dataset = self.settings, self._inputs.dataset
        if isinstance(settings, MinedFile):
            assert self._inputs.given is not None
            return Mined.without_scores(self._inputs.given)
        prompts, device = list(dataset.prompts.values()), collectives.device
        own = self._own(settings, collectives, step) if OWN in settings.retrievers else None
        return mine(
            dataset.train,
            dataset.items,
            dataset.known,
            self._inputs.documents,
            build_retrievers(settings, dataset.items, own, prompts, device),
            settings,
            self._seed + step,
            prompts=prompts,
            judge=build_judge(settings.judge, dataset.items, prompts, device),
        )

    def _own(self, settings: Mining, collectives: Collectives, step: int) -> Retriever:
        """Return the retriever of the model as it is now; what the untouched model finds is cached."""
        label = "mining negatives" if step == 0 else f"mining negatives at step {step}"

        def embed(items_N: Ints, role: Role) -> Floats:  # noqa: ARG001 the items have their prompts
            return self._runner.embed(items_N, collectives, label)

        def search(queries_QD: Floats, documents_MD: Floats, k: int) -> tuple[Floats, Ints]:
            return self._runner.search(queries_QD, documents_MD, k, collectives)

        nearest = approximate if settings.index == "usearch" else search
        items = self._inputs.dataset.items
        if step > 0 or self._identity is None or len(items) > len(items.texts):
            return Dense(embed, OWN, nearest)
        encoder = self._runner.encoder
        weights, tokens = digest_of_weights(encoder), key_of(items.texts, encoder.tokenizer, self._max_length)
        identity = (weights, tokens, *self._identity, str(collectives.device), settings.index)
        return CachedRetriever(Dense(CachedVectors(embed, identity), OWN, nearest), identity)

    def _facts(self, mined: Mined, step: int, seconds: float) -> dict[str, Any]:
        dataset = self._inputs.dataset
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
