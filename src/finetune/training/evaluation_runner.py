"""An encoder measured by evaluators: what they ask for is embedded, or scored, by the engine.

Shapes: N items, P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from omegaconf import DictConfig

from finetune.console import Bar, say
from finetune.data.arrays import Ints
from finetune.data.batching.non_text import NonText
from finetune.data.cache.store import Cache
from finetune.data.holdout.eval_data import EvalData
from finetune.data.items import STORED, Items
from finetune.data.prompts import Prompts
from finetune.data.tokens.token_store import Tokens
from finetune.encoding.collectives import Collectives
from finetune.encoding.engine import Engine
from finetune.evaluation.evaluator import Role
from finetune.evaluation.result import Result
from finetune.models.encoder import Encoder
from finetune.training.fsdp import unsharded
from finetune.training.preserve_state import random_state, set_random_state

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """What is held out, ready for one encoder."""

    held: EvalData
    tokens: Tokens
    others: NonText | None

    @classmethod
    def of(cls, held: EvalData, encoder: Encoder, max_length: int, cache: bool) -> Source:
        """Tokenise what is held out, or find that in the cache."""
        items = held.items
        tokens = Tokens.of_nothing()
        if len(items.texts):
            tokens = Tokens.cached(items, encoder.tokenizer, max_length, Cache() if cache else None)
        return cls(held, tokens, NonText(items, encoder.prepare) if len(items) > len(items.texts) else None)


@dataclass(frozen=True)
class EmbedRequest:
    """What the first process asks all of them for: items embedded, or, with the `right` ones beside them, pairs scored.

    `source` is the evaluator whose own source they are of, `None` for the run's; with `texts` they are of these.
    `tokens` is the most of a micro-batch, the same everywhere; `what` stands beside the progress.
    """

    what: str
    source: str | None
    tokens: int
    items: Ints
    right: Ints | None = None
    texts: Items | None = None


@dataclass(frozen=True)
class EmbeddingRecorder:
    """Some items of the run, ascending, `(N,)`, and their embeddings `(N, D)`, NaN until one is known."""

    items: Ints
    emb_ND: Floats

    def take(self, items: Ints, emb_ND: Floats) -> None:
        """Take what is wanted of these embeddings."""
        place = np.minimum(np.searchsorted(self.items, items), max(0, len(self.items) - 1))
        wanted = np.flatnonzero(self.items[place] == items) if len(self.items) else place[:0]
        self.emb_ND[place[wanted]] = emb_ND[wanted]

    def missing(self) -> Ints:
        """Return the items whose embeddings are not known."""
        return self.items[np.isnan(self.emb_ND).any(1)]

    def of(self, items: Ints) -> Floats:
        """Return the embeddings of items that are among these."""
        found: Floats = self.emb_ND[np.searchsorted(self.items, items)]
        return found


class EvaluationRunner:
    """What there is to measure with: `run` is what the run holds out, `own` what evaluators bring, by their names.

    `prompts` are for texts that are not known before an evaluator asks for their embeddings.
    The processes of a run are called together. The first one measures; each embeds its share of what that asks for.
    """

    def __init__(
        self,
        encoder: Encoder,
        engine: Engine,
        max_length: int,
        run: Source | None,
        own: Mapping[str, Source] | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        self._encoder, self._engine, self._run, self._own = encoder, engine, run, own or {}
        prompts = prompts or Prompts()
        self._prompts: dict[Role | None, str] = {"query": prompts.anchor, "document": prompts.positive, None: ""}
        self._max_length, self._pairing = max_length, encoder.pairing(max_length)
        self._said: set[str] = set()
        self._watched: EmbeddingRecorder | None = None

    def __call__(self, evaluators: Mapping[str, Any], together: Collectives, when: str) -> dict[str, Result]:
        """Return what each evaluator found on its own source, else on what the run holds out, where it is of its kind.

        `when` it does so stands beside the progress. Of several processes the first one finds it, the others nothing.

        Raises:
            FinetuneError: there is nothing right to be found, or an embedding is no number.
        """
        # Weights of fp32, whatever it trains in: that is how the saved model will be used and compared.
        self._encoder.to(together.device).float().eval()
        found: dict[str, Result] = {}
        with unsharded(self._encoder):
            if together.rank:
                self._serve(together)
                return found
            for name, evaluator in evaluators.items():
                found |= self._found(name, evaluator, together, f"evaluating {when}")
            together.broadcast(None)  # that was all
        return found

    def _found(self, name: str, evaluator: Any, together: Collectives, what: str) -> dict[str, Result]:
        if evaluator.brings_texts:
            return {name: self._of_texts(name, evaluator, together, what)}
        source = self._own.get(name, self._run)
        held = source.held.of(evaluator.evaluates) if source else None
        if source is None or held is None:
            return {}
        items, whose = source.held.items, name if name in self._own else None
        give = self._rate if evaluator.takes_scores else self._embed
        texts = items.take if len(items) == len(items.texts) else None
        result: Result = evaluator.evaluate(held, partial(give, together, what, whose), texts, together.device)
        self._say(name, result)
        return {name: result}

    def _of_texts(self, name: str, evaluator: Any, together: Collectives, what: str) -> Result:
        state = random_state(together.device)
        try:
            result: Result = evaluator.measure(partial(self._embed_texts, together, what))
        finally:
            set_random_state(state)  # a library may seed what is everybody's
        self._say(name, result)
        return result

    def takes(self) -> dict[str, Callable[[Ints], list[str]]]:
        """Return how the items of evaluators with a source of their own become texts, by the evaluators' names."""
        return {name: source.held.items.take for name, source in self._own.items()}

    def _say(self, name: str, result: Result) -> None:
        for note in result.notes:
            # The second measurement would only repeat it.
            if (line := f"{name}: {note}") not in self._said:
                self._said.add(line)
                say(line)

    def watch(self, items: Ints) -> None:
        """Keep the embeddings of these items of the run, ascending, when an evaluator asks for them."""
        self._watched = EmbeddingRecorder(items, np.full((len(items), self._encoder.width), np.nan, np.float32))

    def watched(self, together: Collectives, what: str) -> EmbeddingRecorder:
        """Return what was watched until now, with the embeddings of what no evaluator asked for.

        Of several processes the first one has them, the others nothing that is of use.
        """
        assert self._watched is not None
        # Each process has seen its own shares; what the first one misses is missing.
        missing = together.broadcast(self._watched.missing())
        if len(missing):
            self.embeddings(missing, together, what)
        found, self._watched = self._watched, None
        return found

    def embeddings(self, items: Ints, together: Collectives, what: str) -> Floats:
        """Return the embeddings `(N, D)` of items of the run by number; `what` stands beside the progress.

        Of several processes the first one has them, the others nothing that is of use.
        """
        self._encoder.to(together.device).float().eval()
        with unsharded(self._encoder):
            return self._answer(together.broadcast(self._ask(what, None, items)), together)

    def _serve(self, together: Collectives) -> None:
        while (ask := together.broadcast(cast(EmbedRequest | None, None))) is not None:
            self._answer(ask, together)

    def _ask(self, what: str, source: str | None, items: Ints, right: Ints | None = None) -> EmbedRequest:
        return EmbedRequest(what, source, self._engine.budget(self._encoder).tokens, items, right)

    def _embed(self, together: Collectives, what: str, source: str | None, items: Ints) -> Floats:
        return self._answer(together.broadcast(self._ask(what, source, items)), together)

    def _embed_texts(
        self, together: Collectives, when: str, texts: Sequence[str], role: Role | None, what: str
    ) -> Floats:
        front = self._prompts[role]
        column = pa.array([front + text for text in texts], STORED["text"])
        items, (place,) = Items.from_columns([column])  # each text is embedded once
        tokens = self._engine.budget(self._encoder).tokens
        ask = EmbedRequest(f"{when}: {what}", None, tokens, np.arange(len(items)), texts=items)
        return self._answer(together.broadcast(ask), together)[place]

    def _rate(self, together: Collectives, what: str, source: str | None, left_P: Ints, right_P: Ints) -> Floats:
        if self._pairing is not None:
            return self._answer(together.broadcast(self._ask(what, source, left_P, right_P)), together)[:, 0]
        items_N, place = np.unique(np.concatenate([left_P, right_P]), return_inverse=True)
        emb_ND = self._embed(together, what, source, items_N)
        score_P: Floats = (emb_ND[place[: len(left_P)]] * emb_ND[place[len(left_P) :]]).sum(1)
        return score_P

    def _source_of(self, ask: EmbedRequest) -> Source:
        if ask.texts is not None:
            return Source.of(EvalData(ask.texts, ()), self._encoder, self._max_length, cache=False)
        source = self._run if ask.source is None else self._own[ask.source]
        assert source is not None
        return source

    def _answer(self, ask: EmbedRequest, together: Collectives) -> Floats:
        """Embed or score this process's share; the first process gets what the others made of theirs."""
        source = self._source_of(ask)
        tokens, items, unit = source.tokens, ask.items, "items"
        if ask.right is not None:
            assert self._pairing is not None
            ids_T2, lengths_P = self._pairing.of_items(tokens, ask.items, ask.right)
            tokens, unit = Tokens(ids_T2, np.concatenate([[0], np.cumsum(lengths_P)])), "pairs"
            items = np.arange(len(ask.items))
        found = np.zeros((len(items), self._encoder.width), np.float32)
        done, mine = 0, slice(together.rank, None, together.world)
        with Bar(ask.what, len(items), unit) as bar:
            for rows, part in self._engine.embed(self._encoder, tokens, items, source.others, ask.tokens, mine):
                found[rows] = part.cpu().numpy()
                done += len(rows) * together.world  # the others are about as far
                if done < len(items):
                    bar.update(done)
            together.reduce_sum(found)
            bar.update(len(items))
        if self._watched is not None and source is self._run and ask.right is None:
            self._watched.take(items, found)
        return found


def sized(model: DictConfig, items: Items) -> DictConfig:
    """Return the model's node with the length of the vectors that it will read, where it asks for it."""
    if model.get("input_width") != "auto" or len(items.parts) < 2:
        return model
    known, (_, part, *_) = model.copy(), items.parts
    known.input_width = len(part.values[0].as_py()) // np.dtype(np.float32).itemsize
    return known
