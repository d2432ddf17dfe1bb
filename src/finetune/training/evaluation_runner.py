"""Runs evaluators on an encoder: what an evaluator needs is embedded, or scored, by the engine.

Shapes: N items, P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from finetune.console import say
from finetune.data.arrays import Ints
from finetune.data.holdout.eval_data import EvalData
from finetune.data.items import STORED, Items
from finetune.data.prompts import Prompts
from finetune.encoding.collectives import Collectives
from finetune.encoding.embedder import Embedder, EmbeddingRecorder, Floats
from finetune.encoding.engine import Engine
from finetune.encoding.sharding import unsharded
from finetune.encoding.source import ItemSource
from finetune.evaluation.evaluator import Role
from finetune.evaluation.result import Result
from finetune.models.encoder import Encoder
from finetune.training.preserve_state import random_state, set_random_state

T = TypeVar("T")


@dataclass(frozen=True)
class EvalInputs:
    """Held-out data, and its items prepared for one encoder."""

    data: EvalData
    source: ItemSource

    @classmethod
    def prepare(cls, data: EvalData, encoder: Encoder, max_length: int, cache: bool) -> EvalInputs:
        """Tokenize the texts of held-out data, or read their tokens from the cache if `cache` is set."""
        return cls(data, ItemSource.prepare(data.items, encoder, max_length, cache))


class EvaluationRunner:
    """Runs evaluators on `run`, what the run holds out, and on `own`, the data of evaluators, by their names.

    `prompts` are put in front of texts that are unknown before an evaluator asks for their embeddings.

    With several processes, all of them call the same methods. The first one runs the evaluators; each process embeds
    its share of the items, and searches for its share of the queries. Returned embeddings are valid in the first
    process only.
    """

    def __init__(
        self,
        encoder: Encoder,
        engine: Engine,
        max_length: int,
        run: EvalInputs | None,
        own: Mapping[str, EvalInputs] | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        self.encoder, self._run, self._own = encoder, run, own or {}
        run_items = run.source if run is not None else None
        own_items = {name: one.source for name, one in self._own.items()}
        self._embedder = Embedder(encoder, engine, max_length, run_items, own_items)
        prompts = prompts or Prompts()
        self._prompts: dict[Role | None, str] = {"query": prompts.anchor, "document": prompts.positive, None: ""}
        self._printed_notes: set[str] = set()

    def evaluate(self, evaluators: Mapping[str, Any], collectives: Collectives, when: str) -> dict[str, Result]:
        """Return the result of each evaluator on its own data, or else on that of the run if it has the right kind.

        `when` is shown with the progress. The first process has the results, the others an empty dict.

        Raises:
            FinetuneError: there is nothing to evaluate, or an embedding is not finite.
        """
        return self.run_in_first(partial(self._evaluate_all, evaluators, collectives, when), collectives) or {}

    def run_in_first(self, work: Callable[[], T], collectives: Collectives) -> T | None:
        """Return the result of `work` in the first process, and None in the others.

        `work` may call `embed` and `search`, of which the other processes compute their shares until it returns.
        """
        self._to_eval_mode(collectives)
        with unsharded(self.encoder):
            if collectives.rank:
                self._embedder.serve(collectives)
                return None
            result = work()
            self._embedder.end_serving(collectives)
        return result

    def embed(self, items: Ints, collectives: Collectives, label: str) -> Floats:
        """Return the embeddings `(N, D)` of items of the run; for the `work` of `run_in_first`."""
        return self._embedder.embed(items, None, collectives, label)

    def search(self, queries_QD: Floats, corpus_MD: Floats, k: int, collectives: Collectives) -> tuple[Floats, Ints]:
        """Return the scores and indices `(Q, k)` of the k best documents; for the `work` of `run_in_first`."""
        return self._embedder.search(queries_QD, corpus_MD, k, collectives)

    def embeddings(self, items: Ints, collectives: Collectives, label: str) -> Floats:
        """Return the embeddings `(N, D)` of items of the run; `label` is shown with the progress."""
        self._to_eval_mode(collectives)
        with unsharded(self.encoder):
            return self._embedder.embed(items, None, collectives, label)

    def start_recording(self, items: Ints) -> None:
        """Record the embeddings of these items of the run, ascending, when an evaluator asks for them."""
        self._embedder.recorder = EmbeddingRecorder.empty(items, self.encoder.width)

    def stop_recording(self, collectives: Collectives, label: str) -> EmbeddingRecorder:
        """Return the recorded embeddings, after embedding those items that no evaluator asked for."""
        recorder = self._embedder.recorder
        assert recorder is not None
        # Each process has recorded its own shares only; the first one has all, and decides what is missing.
        missing = collectives.broadcast(recorder.missing())
        if len(missing):
            self.embeddings(missing, collectives, label)
        self._embedder.recorder = None
        return recorder

    def own_texts(self) -> dict[str, Callable[[Ints], list[str]]]:
        """Return for each evaluator with data of its own, by its name, what returns the texts of items."""
        return {name: one.data.items.take for name, one in self._own.items()}

    def _to_eval_mode(self, collectives: Collectives) -> None:
        # fp32 weights, whatever precision it trains in: the saved model is used and compared in fp32.
        self.encoder.to(collectives.device).float().eval()

    def _evaluate_all(self, evaluators: Mapping[str, Any], collectives: Collectives, when: str) -> dict[str, Result]:
        results: dict[str, Result] = {}
        for name, evaluator in evaluators.items():
            result = self._evaluate_one(name, evaluator, collectives, f"evaluating {when}")
            if result is not None:
                results[name] = result
                self._print_notes(name, result)
        return results

    def _evaluate_one(self, name: str, evaluator: Any, collectives: Collectives, label: str) -> Result | None:
        """Return the result of one evaluator; None if there is no data of its kind."""
        if evaluator.brings_texts:
            return self._evaluate_own_texts(evaluator, collectives, label)
        source = self._own.get(name, self._run)
        data = source.data.of(evaluator.evaluates) if source is not None else None
        if source is None or data is None:
            return None
        items = source.data.items
        texts = items.take if len(items) == len(items.texts) else None
        source_name = name if name in self._own else None
        compute = self._score_pairs if evaluator.takes_scores else self._embed
        result: Result = evaluator.evaluate(
            data,
            partial(compute, collectives, label, source_name),
            texts,
            partial(self._embedder.search, collectives=collectives),
        )
        return result

    def _evaluate_own_texts(self, evaluator: Any, collectives: Collectives, label: str) -> Result:
        state = random_state(collectives.device)
        try:
            result: Result = evaluator.measure(partial(self._embed_texts, collectives, label))
        finally:
            set_random_state(state)  # the library of the evaluator may seed the global generators
        return result

    def _print_notes(self, name: str, result: Result) -> None:
        for note in result.notes:
            line = f"{name}: {note}"
            if line not in self._printed_notes:  # the evaluation after the training would only repeat it
                self._printed_notes.add(line)
                say(line)

    def _embed(self, collectives: Collectives, label: str, source: str | None, items: Ints) -> Floats:
        return self._embedder.embed(items, source, collectives, label)

    def _embed_texts(
        self, collectives: Collectives, when: str, texts: Sequence[str], role: Role | None, label: str
    ) -> Floats:
        """Return the embeddings `(N, D)` of N texts, each distinct one computed once."""
        prompt = self._prompts[role]
        column = pa.array([prompt + text for text in texts], STORED["text"])
        items, (item_N,) = Items.from_columns([column])
        return self._embedder.embed_texts(items, collectives, f"{when}: {label}")[item_N]

    def _score_pairs(
        self, collectives: Collectives, label: str, source: str | None, left_P: Ints, right_P: Ints
    ) -> Floats:
        """Return the scores `(P,)` of pairs of items: those of an encoder of pairs, or else dot products."""
        if self._embedder.pairing is not None:
            return self._embedder.score_pairs(left_P, right_P, source, collectives, label)
        items_N, row = np.unique(np.concatenate([left_P, right_P]), return_inverse=True)
        emb_ND = self._embedder.embed(items_N, source, collectives, label)
        pairs = len(left_P)
        score_P: Floats = (emb_ND[row[:pairs]] * emb_ND[row[pairs:]]).sum(1)
        return score_P
