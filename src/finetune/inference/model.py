"""A model to use: embeddings of texts, images and pairs, their similarity, exact search, reranking.

Shapes: N items, D dimensions, Q queries, M documents, k cut-off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.arguments import is_whole_number
from finetune.errors import FinetuneError, ModelError
from finetune.inference import encode as encoding
from finetune.inference import ranges as int8_ranges
from finetune.inference import search as searching
from finetune.inference.build_encoder import build_encoder
from finetune.inference.devices import Device, find_devices
from finetune.inference.embedder import Dtype, LocalEmbedder
from finetune.inference.errors import with_name
from finetune.inference.info import ModelInfo, matryoshka_of, parameters_of
from finetune.inference.items import as_texts, check_items, materialized
from finetune.inference.locate import Location
from finetune.inference.pool import DevicePool
from finetune.inference.prompts import prompt_text
from finetune.inference.quantize import Floats, Precision, checked_precision, ranges_of
from finetune.inference.search import Hits
from finetune.models.digest import digest_of


class Model:
    """A model that is ready for use. `get_model` and `build_model` return one.

    Vectors equal those of sentence-transformers to 1e-5 in float32. All methods may be called from several threads.
    With several devices each has a process of its own; use the model in a `with` block, or `close` it, to end them.

    Example:
        >>> from finetune.inference.load import get_model
        >>> model = get_model("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
        >>> model.encode(["a red cat", "a scarlet kitten"]).shape
        (2, 384)
    """

    def __init__(
        self,
        location: Location,
        dimensions: int | None = None,
        precision: Precision = "float32",
        device: Device | Sequence[Device] | None = None,
        dtype: Dtype = "float32",
        max_length: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._location = location
        self._changes = sorted(options or {})
        self._precision = checked_precision(precision)
        devices = find_devices(device)
        if dtype not in get_args(Dtype):
            raise FinetuneError(f"dtype={dtype!r} is unknown.", f"Choose one of {', '.join(get_args(Dtype))}.")
        with with_name(location.folder, location.name):
            encoder, self._settings = build_encoder(location.folder, max_length, options)
        self.width = encoder.width
        self.devices = devices
        self._encoder, self._dtype = encoder, dtype
        if dimensions is None and self._settings.truncate_dim is not None:
            dimensions = min(self.width, self._settings.truncate_dim)
        self._dimensions = self._checked_dimensions(dimensions)
        self._int8_ranges = int8_ranges.read(location.folder)
        self._embedder: LocalEmbedder | DevicePool
        if len(devices) > 1:
            self._embedder = DevicePool(location.folder, devices, dtype, max_length)
        else:
            self._embedder = LocalEmbedder(encoder, self._settings, devices[0], dtype)

    @property
    def name(self) -> str:
        """What the model was given as: a run, a folder, a hub id or an artifact."""
        return self._location.name

    @property
    def folder(self) -> Path:
        """The folder that it was loaded from."""
        return self._location.folder

    @property
    def path(self) -> Path:
        """The run that trained it, or the folder that it was loaded from: other functions take the model by it.

        Raises:
            ModelError: `build_model` has changed it, so that no folder holds it.
        """
        if self._changes:
            what = f"this model of {self.name} was built with {', '.join(self._changes)}, and is not saved in a folder."
            raise ModelError(what, "Use the model of its folder or of a run: get_model.")
        return self._location.run.path if self._location.run else self.folder

    @property
    def device(self) -> torch.device:
        """The device that computes; of several the first."""
        return self.devices[0]

    @property
    def kind(self) -> str:
        """The kind of encoder: text, image, text_image, static, pairs, two_towers, points or vectors."""
        return self._settings.kind

    @property
    def scores_pairs(self) -> bool:
        """Whether it is a cross-encoder, whose items are pairs of texts."""
        return self._encoder.scores_pairs

    @property
    def dimensions(self) -> int:
        """How many dimensions `encode` returns by default."""
        return self._dimensions

    @property
    def similarity_function(self) -> str:
        """The function that its embeddings are compared with: cosine, dot, euclidean or manhattan."""
        return self._settings.similarity

    @property
    def token_budget(self) -> int | None:
        """How many tokens are computed at a time by default; None with several devices, which each decide it."""
        return self._embedder.token_budget if isinstance(self._embedder, LocalEmbedder) else None

    @property
    def tokens(self) -> int:
        """How many tokens were computed so far, not counting other processes; nothing is subtracted for repeats."""
        return self._embedder.tokens if isinstance(self._embedder, LocalEmbedder) else 0

    @cached_property
    def digest(self) -> str:
        """The SHA-256 over all files of the model, which tells it from others; reads them all at the first call."""
        return digest_of(self.folder)

    def info(self) -> ModelInfo:
        """Return the facts about the model; the first call reads all its files for the digest."""
        settings = self._settings
        return ModelInfo(
            name=self.name,
            kind=settings.kind,
            width=self.width,
            dimensions=self._dimensions,
            matryoshka=matryoshka_of(self._location, self.width),
            prompts={"query": "", "document": ""} | dict(settings.prompts),
            default_prompt=settings.default_prompt,
            max_length=settings.max_length,
            similarity=settings.similarity,
            parameters=parameters_of(self._encoder),
            dtype=self._dtype,
            devices=tuple(map(str, self.devices)),
            revision=self.digest,
        )

    def encode(
        self,
        items: Iterable[Any],
        prompt: str | None = None,
        *,
        batch_tokens: int | Literal["auto"] = "auto",
        normalize: bool = False,
        dimensions: int | None = None,
        precision: Precision | None = None,
        show_progress: bool = False,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return the embeddings `(N, D)` of items, in their order; each distinct text is embedded once.

        `items` are texts, images (of Pillow, paths, bytes, arrays), for a cross-encoder pairs of texts, for a model of
        vectors or point clouds arrays. Texts longer than the maximum length are cut. An empty list gives `(0, D)`.

        `prompt` names what is put before each text: `query`, `document`, another prompt of the model, or None for its
        default. `normalize` scales to unit length, after `dimensions` has cut the vectors: as in sentence-transformers
        a model that normalizes by itself does so before. `batch_tokens` limits the tokens that are computed at a time.
        `precision`: see `quantize`; int8 needs `calibrate`, or takes the ranges of these items. `out` is an array that
        the embeddings are written into, such as a memory-mapped file, and which is returned.

        Raises:
            FinetuneError: an item is not of the kind that the model reads; an unknown prompt; too many dimensions.
        """
        options = self._options(prompt, batch_tokens, normalize, dimensions, precision)
        check_items(items)
        return encoding.encode(self._embedder, materialized(items), options, out, show_progress)

    def encode_stream(
        self,
        items: Iterable[Any],
        prompt: str | None = None,
        *,
        block: int = 16_384,
        batch_tokens: int | Literal["auto"] = "auto",
        normalize: bool = False,
        dimensions: int | None = None,
        precision: Precision | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Yield the embeddings of consecutive items, in order, `block` at a time (fewer in the last), `(n, D)`.

        `items` is read no further than the block that is computed, so memory does not grow with it. A text that occurs
        twice in a block is embedded once. Parameters and errors are those of `encode`; int8 needs `calibrate` first.
        """
        options = self._options(prompt, batch_tokens, normalize, dimensions, precision)
        check_items(items)
        if not is_whole_number(block):
            raise FinetuneError(f"block={block!r} is not a number of items.", "Set at least 1.")
        if options.precision == "int8" and options.ranges_2D is None:
            what = "int8 needs the range of each dimension before the first block."
            raise FinetuneError(what, "Call model.calibrate(texts) first, with some hundred typical texts.")
        return encoding.encode_stream(self._embedder, items, options, block)

    def similarity(self, a: Any, b: Any) -> Floats:
        """Return the similarity `(N, M)` of embeddings `(N, D)` and `(M, D)`, by the function of the model.

        That is the cosine, unless the model was trained for the dot product or a distance, which is negated.

        Raises:
            FinetuneError: they are no matrices of finite floating-point numbers, or differ in width.
        """
        return searching.similarity(
            searching.as_vectors(a, "a"), searching.as_vectors(b, "b"), self._settings.similarity
        )

    def search(self, queries: Any, corpus: Any, k: int = 10) -> Hits:
        """Return the k documents that are most similar to each query: `scores` `(Q, k)` and `indices` `(Q, k)`.

        The search is exact and goes through the corpus in blocks. Queries and corpus are items, which are embedded with
        the prompts `query` and `document`, or their embeddings, such as a memory-mapped array. With fewer than k
        documents all are returned.

        Raises:
            FinetuneError: as `encode` and `similarity` raise; the corpus is empty; the model scores pairs.
        """
        self._check_embeds()
        searching.check_count(k)
        queries_QD = searching.as_vectors(queries, "queries") if _is_matrix(queries) else None
        if queries_QD is None:
            queries_QD = self.encode(queries, "query", precision="float32")
        blocks: Iterable[Floats]
        if _is_matrix(corpus):
            blocks = [searching.as_vectors(corpus, "corpus")]
        else:
            blocks = self.encode_stream(corpus, "document", precision="float32")
        return searching.search(queries_QD, blocks, k, self._settings.similarity, self.device)

    def score(self, pairs: Iterable[tuple[str, str]], *, batch_tokens: int | Literal["auto"] = "auto") -> Floats:
        """Return the score `(N,)` that a cross-encoder gives to each pair of texts, as its folder scales it.

        Raises:
            FinetuneError: it is no cross-encoder, or an item is no pair of texts.
        """
        if not self.scores_pairs:
            what = f"{self.name} embeds items one by one and scores no pairs."
            raise ModelError(what, "Use model.similarity on embeddings, or a cross-encoder.")
        logits_N = torch.from_numpy(self.encode(pairs, batch_tokens=batch_tokens, precision="float32")[:, 0])
        activation = getattr(torch.nn, self._settings.activation)()
        scores: Floats = activation(logits_N).numpy()
        return scores

    def rerank(self, query: str, documents: Sequence[str], k: int | None = None) -> list[tuple[int, float]]:
        """Return (index, score) of the documents, best first, at most `k`; of equal scores the first document first.

        A cross-encoder scores each document together with the query; other models compare their embeddings.

        Raises:
            FinetuneError: the query is no text, or a document is none; `k` is not a whole number from 1.
        """
        if k is not None:
            searching.check_count(k)
        check_items(documents, "documents")
        texts = as_texts(documents, "documents")
        query = as_texts([query], "query")[0].as_py()
        if not len(texts):
            return []
        if self.scores_pairs:
            scores_N = self.score([(query, document) for document in texts.to_pylist()])
        else:
            query_1D = self.encode([query], "query", precision="float32")
            scores_N = self.similarity(query_1D, self.encode(texts, "document", precision="float32"))[0]
        order = np.argsort(-scores_N, kind="stable")[:k]
        return [(int(i), float(scores_N[i])) for i in order]

    def calibrate(
        self,
        items: Iterable[Any],
        prompt: str | None = None,
        *,
        normalize: bool = False,
        dimensions: int | None = None,
        save: bool = False,
    ) -> Floats:
        """Keep the lowest and the highest value of each dimension over typical items, `(2, D)`, for precision int8.

        Some hundred items are enough; later values outside of these ranges are clipped. They are used by `encode` with
        the same `normalize` and `dimensions`. With `save` they are written into the folder of the model, and are there
        the next time that it is loaded.

        Raises:
            FinetuneError: there are fewer than two items.
            RunError: the folder cannot be written.
        """
        emb_ND = self.encode(items, prompt, normalize=normalize, dimensions=dimensions, precision="float32")
        ranges_2D = ranges_of(emb_ND)
        self._int8_ranges = self._int8_ranges | {(emb_ND.shape[1], normalize): ranges_2D}
        if save:
            int8_ranges.write(self.folder, self._int8_ranges)
        return ranges_2D

    def close(self) -> None:
        """End the processes of several devices, after which the model cannot encode; on one device nothing changes."""
        self._embedder.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, kind={self.kind!r}, width={self.width}, device={self.device})"

    def _options(
        self,
        prompt: str | None,
        batch_tokens: int | Literal["auto"],
        normalize: bool,
        dimensions: int | None,
        precision: Precision | None,
    ) -> encoding.Options:
        if batch_tokens != "auto" and not is_whole_number(batch_tokens):
            raise FinetuneError(
                f"batch_tokens={batch_tokens!r} is not a number of tokens.", 'Set at least 1, or "auto".'
            )
        if self.scores_pairs and prompt is not None:
            raise ModelError(f"{self.name} scores pairs of texts, which have no prompt.", "Leave the prompt out.")
        precision = self._precision if precision is None else checked_precision(precision)
        kept = self._dimensions if dimensions is None else self._checked_dimensions(dimensions)
        return encoding.Options(
            encoder=self._encoder,
            dimensions=kept,
            prompt=prompt_text(prompt, self._settings, self.name),
            normalize=normalize,
            precision=precision,
            ranges_2D=self._int8_ranges.get((kept, normalize)),
            token_budget=None if batch_tokens == "auto" else batch_tokens,
            processes=len(self.devices),
        )

    def _checked_dimensions(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.width
        if not is_whole_number(dimensions, most=self.width):
            what = f"dimensions={dimensions!r}: the embeddings of {self.name} have {self.width}."
            raise FinetuneError(what, f"Set 1 to {self.width}, or leave it out for all of them.")
        return dimensions

    def _check_embeds(self) -> None:
        if self.scores_pairs:
            what = f"{self.name} scores pairs of texts and makes no embeddings to search in."
            raise ModelError(what, "Use model.rerank(query, documents), or a model that embeds texts.")


def _is_matrix(values: Any) -> bool:
    return isinstance(values, np.ndarray | torch.Tensor) and getattr(values, "ndim", 0) > 0 and not _holds_texts(values)


def _holds_texts(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "UOST"
