"""From texts to token ids: just those that the tokenizer itself gives, by the fastest of the ways that do.

N texts of a chunk, T tokens of them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.tokens.wordpiece import SpecialTokenLayout, WordPieces, frame_of
from finetune.errors import ModelError

TokenIds = npt.NDArray[np.integer[Any]]  # uint16 where the vocabulary allows it, else int32

CHUNK_TEXTS = 50_000  # of short texts; what is held of a chunk at once are some tens of MB
CHUNK_BYTES = 2 << 20
MOST_THREADS = 4  # each holds a chunk
RUST_TEXTS = 4096  # enough to keep all cores busy; the tokenizers library needs about a hundred bytes for a token
RUST_BYTES = 1 << 20
SAMPLE = 64  # texts by which a way is held against the tokenizer itself


@dataclass(frozen=True)
class Chunk:
    """Token ids of some texts in a row `(T,)`, how many each has `(N,)`, and how many texts were cut."""

    ids: TokenIds
    lengths: Ints
    truncated: int


class Way(NamedTuple):
    """A way to tokenise, how many texts and bytes of them it is given at once, and how many threads may do so."""

    name: str
    encode: Callable[[pa.Array], Chunk]
    most_texts: int
    most_bytes: int
    threads: int


class Tokenizer:
    """Gives the ids that `tokenizer(texts, truncation=True, max_length=max_length)` gives.

    `tokenizer` is a fast tokenizer of transformers, whose settings of truncation and padding are as before afterwards.

    Raises:
        ModelError: it is not a fast one.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(tokenizer).__name__} is not a fast tokenizer.", "The model's folder must hold tokenizer.json."
            )
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.max_length = max_length
        self.marks = self.backend.num_special_tokens_to_add(False)  # tokens that are put around every text
        self.dtype = np.uint16 if _highest_id(self.backend) < 1 << 16 else np.int32

    def chunks(self, texts: pa.Array) -> Iterator[Chunk]:
        """Yield the ids of all texts (large_string, without nulls), some at a time."""
        if not len(texts):
            return
        sample = texts.take(pa.array(np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).astype(np.int64)))
        expected = self._by_transformers(sample)
        with plain(self.tokenizer):
            # The last of the ways is what the others are held against: it is always there.
            way = next(way for way in self._ways() if _same(way.encode(sample), expected))
            yield from _in_order(way.encode, slices(texts, way.most_texts, way.most_bytes), way.threads)

    def _ways(self) -> Iterator[Way]:
        """Yield the ways that may give the right ids, the fastest first."""
        frame = frame_of(self.backend)
        if frame and len(frame.before) + len(frame.after) < self.max_length:
            words = WordPieces(self.backend, self.dtype)
            threads = min(MOST_THREADS, os.cpu_count() or 1)
            yield Way("words", lambda texts: self._by_words(texts, words, frame), CHUNK_TEXTS, CHUNK_BYTES, threads)
        self.backend.enable_truncation(self.max_length, direction=self.tokenizer.truncation_side)
        # The backend uses all cores by itself; a second thread reads what it gave meanwhile.
        yield Way("backend", self._by_backend, RUST_TEXTS, RUST_BYTES, 2)
        # Some tokenizers do more in their Python class than in their backend.
        yield Way("transformers", self._by_transformers, RUST_TEXTS, RUST_BYTES, 1)

    def _by_words(self, texts: pa.Array, words: WordPieces, frame: SpecialTokenLayout) -> Chunk:
        ids_T, lengths_N = words.ids(texts)
        kept_N = np.minimum(lengths_N, self.max_length - len(frame.before) - len(frame.after))
        truncated = int(np.count_nonzero(kept_N < lengths_N))
        if truncated:
            starts_N = np.cumsum(lengths_N) - lengths_N
            if self.tokenizer.truncation_side == "left":
                starts_N += lengths_N - kept_N
            ids_T = ids_T[flat_ranges(starts_N, kept_N)]
        return Chunk(*_framed(ids_T, kept_N, frame), truncated)

    def _by_backend(self, texts: pa.Array) -> Chunk:
        return self._collect(self.backend.encode_batch_fast(texts.to_pylist()))

    def _by_transformers(self, texts: pa.Array) -> Chunk:
        settings = {"padding": False, "return_attention_mask": False, "return_token_type_ids": False}
        encoded = self.tokenizer(texts.to_pylist(), truncation=True, max_length=self.max_length, **settings)
        return self._collect(encoded.encodings)

    def _collect(self, encodings: list[Any]) -> Chunk:
        rows = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids: TokenIds = np.fromiter(chain.from_iterable(rows), self.dtype, int(lengths.sum()))
        # A text of just `max_length` tokens looks cut and is not: only what overflowed tells.
        truncated = sum(bool(encodings[row].overflowing) for row in np.flatnonzero(lengths >= self.max_length))
        return Chunk(ids, lengths, truncated)


@contextmanager
def plain(tokenizer: Any) -> Iterator[None]:
    """Let the backend of `tokenizer` neither cut nor pad inside the `with`, and treat marks as `tokenizer` says."""
    backend = tokenizer.backend_tokenizer
    truncation, padding, encodes_marks = backend.truncation, backend.padding, backend.encode_special_tokens
    try:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        yield
    finally:
        backend.encode_special_tokens = encodes_marks
        backend.no_truncation()
        if truncation:
            backend.enable_truncation(**truncation)
        if padding:
            backend.enable_padding(**padding)


def _in_order(encode: Callable[[pa.Array], Chunk], parts: Iterator[pa.Array], threads: int) -> Iterator[Chunk]:
    """Yield `encode(part)` of all parts in their order; `threads` are at it, and no more results than that wait."""
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(encode, part) for part in islice(parts, threads))
        while pending:
            chunk = pending.popleft().result()
            pending.extend(pool.submit(encode, part) for part in islice(parts, 1))
            yield chunk


def slices(texts: pa.Array, most_texts: int, most_bytes: int) -> Iterator[pa.Array]:
    """Yield the texts (large_string) in slices of at most so many texts and bytes; a longer text comes alone."""
    offsets = offsets_of(texts)
    start = 0
    while start < len(texts):
        end = int(np.searchsorted(offsets, offsets[start] + most_bytes, side="right")) - 1
        end = min(max(end, start + 1), start + most_texts, len(texts))
        yield texts.slice(start, end - start)
        start = end


def offsets_of(texts: pa.Array) -> Ints:
    """Return where in its buffer each text begins, and where the last ends, (N + 1,)."""
    buffer = texts.buffers()[1]
    if not len(texts) or buffer is None:
        return np.zeros(1, np.int64)
    return np.frombuffer(buffer, np.int64, len(texts) + 1, 8 * texts.offset)


def _framed(ids_T: TokenIds, lengths_N: Ints, frame: SpecialTokenLayout) -> tuple[TokenIds, Ints]:
    longer_N = lengths_N + len(frame.before) + len(frame.after)
    ends_N = np.cumsum(longer_N)
    framed = np.empty(int(ends_N[-1]), ids_T.dtype)
    is_text = np.ones(len(framed), bool)
    marks = [*enumerate(frame.before), *enumerate(frame.after, -len(frame.after))]
    for at, mark in marks:
        places = (ends_N if at < 0 else ends_N - longer_N) + at
        framed[places] = mark
        is_text[places] = False
    framed[is_text] = ids_T
    return framed, longer_N


def _same(one: Chunk, other: Chunk) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.lengths, other.lengths)
        and one.truncated == other.truncated
    )


def _highest_id(backend: Any) -> int:
    return max(backend.get_vocab(with_added_tokens=True).values(), default=0)
