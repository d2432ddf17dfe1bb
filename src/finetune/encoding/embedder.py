"""Embeddings for an evaluation, and the search in them, computed by all processes of a run.

The first process sends an `EmbedRequest` to the others; each process embeds its share of the micro-batches, and the
first one receives the sum. The micro-batches are those of a single process, and so are the numbers. After a
`SearchRequest` each process searches for its share of the queries.

Shapes: N items, P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.console import Bar
from finetune.data.arrays import Ints
from finetune.data.items import Items
from finetune.data.tokens.token_store import Tokens
from finetune.encoding.collectives import Collectives
from finetune.encoding.engine import Engine
from finetune.encoding.shared_search import shared_top_k
from finetune.encoding.source import ItemSource
from finetune.models.encoder import Encoder

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingRecorder:
    """Selected items, ascending, `(N,)`, and their embeddings `(N, D)`, NaN until an evaluation has them computed."""

    items: Ints
    emb_ND: Floats

    @classmethod
    def empty(cls, items: Ints, width: int) -> EmbeddingRecorder:
        """Return a recorder of these items, ascending, without any embedding."""
        return cls(items, np.full((len(items), width), np.nan, np.float32))

    def record(self, items: Ints, emb_ND: Floats) -> None:
        """Store those of the embeddings whose items are selected."""
        if not len(self.items):
            return
        row = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        selected = np.flatnonzero(self.items[row] == items)
        self.emb_ND[row[selected]] = emb_ND[selected]

    def missing(self) -> Ints:
        """Return the selected items that have no embedding yet."""
        return self.items[np.isnan(self.emb_ND).any(1)]

    def embeddings(self, items: Ints) -> Floats:
        """Return the recorded embeddings of items, all of which have to be selected."""
        recorded: Floats = self.emb_ND[np.searchsorted(self.items, items)]
        return recorded


@dataclass(frozen=True)
class EmbedRequest:
    """The message from the first process: embed `items`, or score the pairs of them with the items `right`.

    `label` is shown with the progress. `token_budget` limits a micro-batch, in all processes alike. `source` is the
    evaluator whose own data the items are from, None for the data of the run; with `texts` they are from those.
    """

    label: str
    source: str | None
    token_budget: int
    items: Ints
    right: Ints | None = None
    texts: Items | None = None


@dataclass(frozen=True)
class SearchRequest:
    """The message from the first process: call `shared_top_k` for the `k` best documents."""

    k: int


class Embedder:
    """Embeds items of `run`, the data of the run, and of `own`, the data of evaluators, by their names.

    While the first process calls `embed`, `embed_texts`, `score_pairs` and `search`, the others have to be in `serve`,
    until the first one calls `end_serving`; or all processes call the same of the first three methods together. The
    result is valid in the first process only. The embeddings of items of the run are also added to `recorder`, if one
    is set.
    """

    def __init__(
        self,
        encoder: Encoder,
        engine: Engine,
        max_length: int,
        run: ItemSource | None,
        own: Mapping[str, ItemSource],
    ) -> None:
        self.encoder = encoder
        self.pairing = encoder.pairing(max_length)
        self.recorder: EmbeddingRecorder | None = None
        self._engine, self._max_length = engine, max_length
        self._run, self._own = run, own

    def embed(self, items: Ints, source: str | None, collectives: Collectives, label: str) -> Floats:
        """Return the embeddings `(N, D)` of items of one source."""
        return self._send(EmbedRequest(label, source, self._token_budget(), items), collectives)

    def embed_texts(self, texts: Items, collectives: Collectives, label: str) -> Floats:
        """Return the embeddings `(N, D)` of texts that are in none of the sources."""
        request = EmbedRequest(label, None, self._token_budget(), np.arange(len(texts)), texts=texts)
        return self._send(request, collectives)

    def score_pairs(
        self, left_P: Ints, right_P: Ints, source: str | None, collectives: Collectives, label: str
    ) -> Floats:
        """Return the scores `(P,)` that an encoder of pairs gives to pairs of items of one source."""
        return self._send(EmbedRequest(label, source, self._token_budget(), left_P, right_P), collectives)[:, 0]

    def search(self, queries_QD: Floats, corpus_MD: Floats, k: int, collectives: Collectives) -> tuple[Floats, Ints]:
        """Return scores and indices `(Q, k)` of the k documents with the highest dot product for every query."""
        collectives.broadcast(SearchRequest(k))
        return shared_top_k(queries_QD, corpus_MD, k, collectives)

    def serve(self, collectives: Collectives) -> None:
        """Process the requests of the first process until it calls `end_serving`."""
        while True:
            no_request: EmbedRequest | SearchRequest | None = None
            request = collectives.broadcast(no_request)
            if request is None:
                return
            if isinstance(request, SearchRequest):
                shared_top_k(None, None, request.k, collectives)
            else:
                self._process(request, collectives)

    def end_serving(self, collectives: Collectives) -> None:
        """Let the other processes return from `serve`."""
        collectives.broadcast(None)

    def _token_budget(self) -> int:
        return self._engine.budget(self.encoder).tokens

    def _send(self, request: EmbedRequest, collectives: Collectives) -> Floats:
        return self._process(collectives.broadcast(request), collectives)

    def _process(self, request: EmbedRequest, collectives: Collectives) -> Floats:
        source = self._source(request)
        if request.right is not None:
            return self._score_share(request, request.right, source, collectives)
        emb_ND = self._embed_share(request, source.tokens, request.items, source, "items", collectives)
        if self.recorder is not None and source is self._run:
            self.recorder.record(request.items, emb_ND)
        return emb_ND

    def _source(self, request: EmbedRequest) -> ItemSource:
        if request.texts is not None:
            return ItemSource.prepare(request.texts, self.encoder, self._max_length, cache=False)
        if request.source is not None:
            return self._own[request.source]
        assert self._run is not None
        return self._run

    def _score_share(
        self, request: EmbedRequest, right_P: Ints, source: ItemSource, collectives: Collectives
    ) -> Floats:
        """Return the scores `(P, 1)`: a pair is embedded like an item, whose tokens are those of its two texts."""
        assert self.pairing is not None
        ids_T2, lengths_P = self.pairing.of_items(source.tokens, request.items, right_P)
        offsets = np.concatenate([[0], np.cumsum(lengths_P)])
        pairs = np.arange(len(request.items))
        return self._embed_share(request, Tokens(ids_T2, offsets), pairs, source, "pairs", collectives)

    def _embed_share(
        self,
        request: EmbedRequest,
        tokens: Tokens,
        items: Ints,
        source: ItemSource,
        unit: str,
        collectives: Collectives,
    ) -> Floats:
        """Embed the share of this process; return the embeddings of all items `(N, D)` in the first process."""
        emb_ND = np.zeros((len(items), self.encoder.width), np.float32)
        share = slice(collectives.rank, None, collectives.world)
        done = 0
        with Bar(request.label, len(items), unit) as bar:
            for rows, emb_nD in self._engine.embed(
                self.encoder, tokens, items, source.non_text, request.token_budget, share
            ):
                emb_ND[rows] = emb_nD.cpu().numpy()
                done += len(rows) * collectives.world  # the other processes have made about the same progress
                if done < len(items):
                    bar.update(done)
            collectives.reduce_sum(emb_ND)
            bar.update(len(items))
        return emb_ND
