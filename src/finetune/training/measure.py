"""An encoder measured by evaluators: what they ask for is embedded, or scored, by the engine.

Shapes: N items, P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from finetune.console import Bar, say
from finetune.data.arrays import Ints
from finetune.data.cache import Cache
from finetune.data.held import Held
from finetune.data.items import Items
from finetune.data.others import Others
from finetune.data.tokens import Tokens
from finetune.evaluation.result import Result
from finetune.models.encoder import Encoder
from finetune.training.engine import Engine

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """What is held out, ready for one encoder."""

    held: Held
    tokens: Tokens
    others: Others | None

    @classmethod
    def of(cls, held: Held, encoder: Encoder, max_length: int, cache: bool) -> Source:
        """Tokenise what is held out, or find that in the cache."""
        items = held.items
        tokens = Tokens.of_nothing()
        if len(items.texts):
            tokens = Tokens.cached(items, encoder.tokenizer, max_length, Cache() if cache else None)
        return cls(held, tokens, Others(items, encoder.prepare) if len(items) > len(items.texts) else None)


@dataclass(frozen=True)
class Watched:
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


class Measure:
    """What there is to measure with: `run` is what the run holds out, `own` what evaluators bring, by their names."""

    def __init__(
        self,
        encoder: Encoder,
        engine: Engine,
        max_length: int,
        run: Source | None,
        own: Mapping[str, Source] | None = None,
    ) -> None:
        self._encoder, self._engine, self._run, self._own = encoder, engine, run, own or {}
        self._pairing = encoder.pairing(max_length)
        self._said: set[str] = set()
        self._watched: Watched | None = None

    def __call__(self, evaluators: Mapping[str, Any], device: torch.device, when: str) -> dict[str, Result]:
        """Return what each evaluator found on its own source, else on what the run holds out, where it is of its kind.

        `when` it does so stands beside the progress.

        Raises:
            FinetuneError: there is nothing right to be found, or an embedding is no number.
        """
        found = {}
        for name, evaluator in evaluators.items():
            source = self._own.get(name, self._run)
            what = source.held.of(evaluator.evaluates) if source else None
            if source is None or what is None:
                continue
            # Always fp32, whatever it trains in: that is how the saved model will be used and compared.
            self._encoder.to(device).float().eval()
            give = self._rate if evaluator.takes_scores else self._embed
            items = source.held.items
            found[name] = evaluator.evaluate(
                what,
                lambda *rows, give=give, source=source: give(f"evaluating {when}", source, *rows),
                items.take if len(items) == len(items.texts) else None,
                device,
            )
            self._say(name, found[name])
        return found

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
        self._watched = Watched(items, np.full((len(items), self._encoder.width), np.nan, np.float32))

    def watched(self, device: torch.device, what: str) -> Watched:
        """Return what was watched until now, with the embeddings of what no evaluator asked for."""
        assert self._watched is not None
        missing = self._watched.missing()
        if len(missing):
            self.embeddings(missing, device, what)
        found, self._watched = self._watched, None
        return found

    def embeddings(self, items: Ints, device: torch.device, what: str) -> Floats:
        """Return the embeddings `(N, D)` of items of the run by number; `what` stands beside the progress."""
        assert self._run is not None
        self._encoder.to(device).float().eval()
        return self._embed(what, self._run, items)

    def _embed(self, what: str, source: Source, items: Ints) -> Floats:
        emb_ND = np.empty((len(items), self._encoder.width), np.float32)
        self._fill(emb_ND, what, "items", source.tokens, items, source.others)
        if self._watched is not None and source is self._run:
            self._watched.take(items, emb_ND)
        return emb_ND

    def _rate(self, what: str, source: Source, left_P: Ints, right_P: Ints) -> Floats:
        if self._pairing is None:
            items_N, place = np.unique(np.concatenate([left_P, right_P]), return_inverse=True)
            emb_ND = self._embed(what, source, items_N)
            score_P: Floats = (emb_ND[place[: len(left_P)]] * emb_ND[place[len(left_P) :]]).sum(1)
            return score_P
        score_P1 = np.empty((len(left_P), 1), np.float32)
        ids_T2, lengths_P = self._pairing.of_items(source.tokens, left_P, right_P)
        pairs = Tokens(ids_T2, np.concatenate([[0], np.cumsum(lengths_P)]))
        self._fill(score_P1, what, "pairs", pairs, np.arange(len(left_P)), source.others)
        return score_P1[:, 0]

    def _fill(self, found: Floats, what: str, unit: str, tokens: Tokens, items: Ints, others: Others | None) -> None:
        done = 0
        with Bar(what, len(items), unit) as bar:
            for rows, part in self._engine.embed(self._encoder, tokens, items, others):
                found[rows] = part.cpu().numpy()
                done += len(rows)
                bar.update(done)


def sized(model: DictConfig, items: Items) -> DictConfig:
    """Return the model's node with the length of the vectors that it will read, where it asks for it."""
    if model.get("input_width") != "auto" or len(items.parts) < 2:
        return model
    known, (_, part, *_) = model.copy(), items.parts
    known.input_width = len(part.values[0].as_py()) // np.dtype(np.float32).itemsize
    return known
