"""Vectors, hits and judgments from the cache, so that an interrupted mining resumes.

Each is stored under a digest of all that it depends on: the weights, the texts and the settings. Vectors are computed
in parts, each an entry of its own.

Shapes: N items, Q anchors, M documents, P pairs, D width.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from finetune.console import Bar
from finetune.data.arrays import Ints
from finetune.data.cache.store import Cache, CacheUnavailable
from finetune.data.items import Items
from finetune.data.tokens.tokenize import update_digest
from finetune.mining.judge import PairJudge
from finetune.mining.retriever import Embed, Floats, Hits, Retriever, Role

if TYPE_CHECKING:
    from finetune.inference.model import Model

_FORMAT = 1  # of the cache entries: a new number invalidates all of them
_ITEMS_AT_ONCE = 16_384
_PAIRS_AT_ONCE = 4096
_IN_MEMORY = 256 << 20  # bytes of vectors; more are in a file that is mapped


def digest_of_texts(texts: pa.Array) -> str:
    """Return a digest of texts (`large_string`) and their order."""
    digest = hashlib.sha256()
    update_digest(digest, texts)
    return digest.hexdigest()


class ModelVectors:
    """Vectors of texts by a model, an `Embed`; from the cache where they were computed before.

    With `own_prompts` the prompts of the model are put in front of the texts, which have none yet. Vectors get unit
    length if the model compares by cosine.
    """

    def __init__(self, model: Model, items: Items, *, own_prompts: bool) -> None:
        self._model, self._items, self._own_prompts = model, items, own_prompts
        self._normalize = model.similarity_function == "cosine"

    def __call__(self, items_N: Ints, role: Role) -> Floats:
        """Return the vectors `(N, D)` of these items; many are a memory map."""
        vectors = _empty(len(items_N), self._model.dimensions)
        with Bar(f"embedding by {Path(self._model.name).name}", len(items_N), "texts") as bar:
            for start in range(0, len(items_N), _ITEMS_AT_ONCE):
                part = items_N[start : start + _ITEMS_AT_ONCE]
                vectors[start : start + len(part)] = self._part(part, role)
                bar.update(start + len(part))
        return vectors

    def _part(self, items_N: Ints, role: Role) -> Floats:
        texts = self._items.texts.take(pa.array(items_N))
        prompt = role if self._own_prompts else None

        def compute() -> dict[str, Any]:
            return {"vectors": self._model.encode(texts, prompt, normalize=self._normalize, precision="float32")}

        settings = self._model.digest, prompt, self._normalize, self._model.dimensions, str(self._model.device)
        vectors: Floats = _cached("vectors", (*settings, digest_of_texts(texts)), compute)["vectors"]
        return vectors


class PreparedRetriever(Retriever, Protocol):
    """A retriever that can score pairs without a search, after it was given the anchors and documents."""

    def prepare(self, anchors_Q: Ints, documents_M: Ints) -> None:
        """Do what a search does before it searches: embed, or build an index."""
        ...


class CachedVectors:
    """Vectors that another function returns, an `Embed`, from the cache where they were computed before.

    `identity` is all that they depend on, apart from the numbers of the items.
    """

    def __init__(self, embed: Embed, identity: tuple[str, ...]) -> None:
        self._embed, self._identity = embed, identity

    def __call__(self, items_N: Ints, role: Role) -> Floats:
        """Return the vectors `(N, D)` of these items."""

        def compute() -> dict[str, Any]:
            return {"vectors": self._embed(items_N, role)}

        numbers = hashlib.sha256(items_N.tobytes()).hexdigest()
        vectors: Floats = _cached("vectors", (*self._identity, role, numbers), compute)["vectors"]
        return vectors


class CachedRetriever:
    """A retriever whose hits are read from the cache where they were found before.

    `identity` is all that they depend on, apart from the arguments of a search.
    """

    def __init__(self, retriever: PreparedRetriever, identity: tuple[str, ...]) -> None:
        self.name = retriever.name
        self._retriever, self._identity = retriever, identity

    def search(self, anchors_Q: Ints, documents_M: Ints, k: int) -> Hits:
        """Return the `k` best of the documents for each anchor."""

        self._retriever.prepare(anchors_Q, documents_M)

        def find() -> dict[str, Any]:
            return self._retriever.search(anchors_Q, documents_M, k)._asdict()

        numbers = [hashlib.sha256(each.tobytes()).hexdigest() for each in (anchors_Q, documents_M)]
        return Hits(**_cached("hits", (*self._identity, *numbers, k), find))

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return the score of each pair."""
        return self._retriever.score(anchors_P, documents_P)


class CachedJudge:
    """A judge whose judgments are read from the cache where they were made before; `identity` as above."""

    def __init__(self, judge: PairJudge, items: Items, identity: tuple[str, ...]) -> None:
        self.gives_scores = judge.gives_scores
        self._judge, self._items, self._identity = judge, items, identity

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return how right each document is for its anchor."""
        parts = [np.empty(0, np.float32)]
        with Bar("judging", len(anchors_P), "pairs") as bar:
            for start in range(0, len(anchors_P), _PAIRS_AT_ONCE):
                part = slice(start, start + _PAIRS_AT_ONCE)
                parts.append(self._part(anchors_P[part], documents_P[part]))
                bar.update(start + len(parts[-1]))
        return np.concatenate(parts)

    def _part(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        texts = [digest_of_texts(self._items.texts.take(pa.array(items))) for items in (anchors_P, documents_P)]

        def judge() -> dict[str, Any]:
            return {"scores": self._judge.score(anchors_P, documents_P)}

        scores: Floats = _cached("judgments", (*self._identity, *texts), judge)["scores"]
        return scores


def _cached(kind: str, identity: tuple[Any, ...], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return arrays by name, from the cache or computed and stored there; without a cache they are computed."""
    key = hashlib.sha256(repr((_FORMAT, identity)).encode()).hexdigest()
    made: list[dict[str, Any]] = []

    def build(folder: Path) -> None:
        made.append(compute())
        for name, values in made[0].items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)

    def load(folder: Path) -> dict[str, Any]:
        if made:
            return made[0]
        return {path.stem: np.load(path, allow_pickle=False) for path in folder.glob("*.npy")}

    with suppress(CacheUnavailable):
        return Cache().load(kind, key, build, load)
    return made[0] if made else compute()


def _empty(rows: int, width: int) -> Floats:
    if rows * width * 4 <= _IN_MEMORY:
        return np.empty((rows, width), np.float32)
    file = tempfile.TemporaryFile()  # noqa: SIM115  the map keeps it open
    return np.memmap(file, np.float32, "w+", shape=(rows, width))
