"""From texts to token ids: exactly those of the tokenizer itself, by the fastest method that returns them.

N texts of a chunk, T tokens of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.threads import map_in_threads
from finetune.data.tokens.wordpiece import SpecialTokens, WordPieces, special_tokens_of
from finetune.errors import ModelError

TokenIds = npt.NDArray[np.integer[Any]]  # uint16 where the vocabulary allows it, else int32

CHUNK_TEXTS = 50_000  # of short texts; a chunk takes some tens of MB of memory
CHUNK_BYTES = 2 << 20
MOST_THREADS = 4  # each has a chunk in memory
RUST_TEXTS = 4096  # enough to keep all cores busy; the tokenizers library takes about 100 bytes per token
RUST_BYTES = 1 << 20
SAMPLE = 64  # texts on which a method is compared with the tokenizer itself


@dataclass(frozen=True)
class Chunk:
    """Concatenated token ids of some texts `(T,)`, token count of each `(N,)`, and how many texts were truncated."""

    ids: TokenIds
    lengths: Ints
    truncated: int


class Method(NamedTuple):
    """A method to tokenize, how many texts and bytes of text it takes per call, and how many threads may call it."""

    name: str
    encode: Callable[[pa.Array], Chunk]
    most_texts: int
    most_bytes: int
    threads: int


class FastTokenizer:
    """Returns the ids that `tokenizer(texts, truncation=True, max_length=max_length)` returns.

    `tokenizer` is a fast tokenizer of transformers, which no other thread uses meanwhile; its truncation and padding
    settings are restored afterwards. Words are cached from one call to the next.

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
        self.special_tokens = self.backend.num_special_tokens_to_add(False)  # added to every text
        self.dtype: type[np.integer[Any]] = np.int32
        if _highest_id(self.backend) < 1 << 16:
            self.dtype = np.uint16

    def chunks(self, texts: pa.Array) -> Iterator[Chunk]:
        """Yield the ids of all texts (large_string, without nulls), chunk by chunk."""
        if not len(texts):
            return
        places = np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).astype(np.int64)
        sample = texts.take(pa.array(places))
        expected = self._by_transformers(sample)
        if len(sample) == len(texts):
            yield expected
            return
        with no_truncation(self.tokenizer):
            method = self._fastest_method(sample, expected)
            parts = slices(texts, method.most_texts, method.most_bytes)
            yield from map_in_threads(method.encode, parts, method.threads)

    def _fastest_method(self, sample: pa.Array, expected: Chunk) -> Method:
        """Return the first method that returns `expected`, what the tokenizer itself returns, for a sample."""
        for method in self._methods():
            if _same(method.encode(sample), expected):
                return method
        raise AssertionError("the last method is the tokenizer itself")

    def _methods(self) -> Iterator[Method]:
        """Yield the methods that may return the right ids, the fastest first; the last one is the tokenizer itself."""
        special = self._special
        if special is not None and len(special.before) + len(special.after) < self.max_length:
            threads = min(MOST_THREADS, os.cpu_count() or 1)
            encode = partial(self._by_words, words=self._words, special=special)
            yield Method("words", encode, CHUNK_TEXTS, CHUNK_BYTES, threads)
        self.backend.enable_truncation(self.max_length, direction=self.tokenizer.truncation_side)
        # The backend uses all cores by itself; a second thread converts its results meanwhile.
        yield Method("backend", self._by_backend, RUST_TEXTS, RUST_BYTES, 2)
        # Some tokenizers do more in their Python class than in their backend.
        yield Method("transformers", self._by_transformers, RUST_TEXTS, RUST_BYTES, 1)

    @cached_property
    def _special(self) -> SpecialTokens | None:
        return special_tokens_of(self.backend)

    @cached_property
    def _words(self) -> WordPieces:
        return WordPieces(self.backend, self.dtype)

    def _by_words(self, texts: pa.Array, words: WordPieces, special: SpecialTokens) -> Chunk:
        ids_T, lengths_N = words.ids(texts)
        kept_N = np.minimum(lengths_N, self.max_length - len(special.before) - len(special.after))
        truncated = int(np.count_nonzero(kept_N < lengths_N))
        if truncated:
            starts_N = np.cumsum(lengths_N) - lengths_N
            if self.tokenizer.truncation_side == "left":
                starts_N += lengths_N - kept_N
            ids_T = ids_T[flat_ranges(starts_N, kept_N)]
        return Chunk(*_add_special_tokens(ids_T, kept_N, special), truncated)

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
        # A text of exactly `max_length` tokens is not truncated: only one with an overflow is.
        truncated = sum(bool(encodings[row].overflowing) for row in np.flatnonzero(lengths >= self.max_length))
        return Chunk(ids, lengths, truncated)


@contextmanager
def no_truncation(tokenizer: Any) -> Iterator[None]:
    """Disable truncation and padding of the backend of `tokenizer` inside the `with`.

    Special tokens in a text are split or kept as `tokenizer.split_special_tokens` says.
    """
    backend = tokenizer.backend_tokenizer
    truncation, padding, encode_special_tokens = backend.truncation, backend.padding, backend.encode_special_tokens
    try:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        yield
    finally:
        backend.encode_special_tokens = encode_special_tokens
        backend.no_truncation()
        if truncation:
            backend.enable_truncation(**truncation)
        if padding:
            backend.enable_padding(**padding)


def slices(texts: pa.Array, most_texts: int, most_bytes: int) -> Iterator[pa.Array]:
    """Yield the texts (large_string) in slices of at most so many texts and bytes; a longer text is its own slice."""
    offsets = offsets_of(texts)
    start = 0
    while start < len(texts):
        end = int(np.searchsorted(offsets, offsets[start] + most_bytes, side="right")) - 1
        end = min(max(end, start + 1), start + most_texts, len(texts))
        yield texts.slice(start, end - start)
        start = end


def offsets_of(texts: pa.Array) -> Ints:
    """Return the offset of each text in its buffer, and the end of the last, (N + 1,)."""
    buffer = texts.buffers()[1]
    if not len(texts) or buffer is None:
        return np.zeros(1, np.int64)
    return np.frombuffer(buffer, np.int64, len(texts) + 1, 8 * texts.offset)


def update_digest(digest: hashlib._Hash, texts: pa.Array) -> None:
    """Add texts (`large_string`, none of them null) and their order to a digest; a slice counts as a copy of it."""
    offsets = offsets_of(texts)
    digest.update(np.diff(offsets).data)
    data = texts.buffers()[2]
    if data:
        digest.update(memoryview(data)[offsets[0] : offsets[-1]])


def _add_special_tokens(ids_T: TokenIds, lengths_N: Ints, special: SpecialTokens) -> tuple[TokenIds, Ints]:
    """Return the ids with the special tokens before and after each text, and the new lengths."""
    longer_N = lengths_N + len(special.before) + len(special.after)
    ends_N = np.cumsum(longer_N)
    starts_N = ends_N - longer_N
    with_special = np.empty(int(ends_N[-1]), ids_T.dtype)
    is_text = np.ones(len(with_special), bool)
    columns = [(starts_N + i, token) for i, token in enumerate(special.before)]
    columns += [(ends_N - len(special.after) + i, token) for i, token in enumerate(special.after)]
    for places, token in columns:
        with_special[places] = token
        is_text[places] = False
    with_special[is_text] = ids_T
    return with_special, longer_N


def _same(one: Chunk, other: Chunk) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.lengths, other.lengths)
        and one.truncated == other.truncated
    )


def _highest_id(backend: Any) -> int:
    return max(backend.get_vocab(with_added_tokens=True).values(), default=0)
