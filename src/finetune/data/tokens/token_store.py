"""Tokens: the token ids of every text, computed once, stored as flat arrays, memory-mapped from the cache.

N texts, T tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.bad_rows import cut
from finetune.data.cache.arrow_files import read_numbers, write_array
from finetune.data.cache.store import Cache, CacheUnavailable
from finetune.data.items import Items
from finetune.data.tokens.tokenize import Chunk, FastTokenizer, TokenIds, no_truncation, update_digest

FORMAT = 1  # of the cache entries: raising it makes everything be tokenized again

Progress = Callable[[int, int], None]  # called with the number of texts done, and of all texts


@dataclass(frozen=True)
class Counts:
    """Counts of truncated texts, texts without any token, and texts of unknown tokens only.

    `example` is the number of the first text of the latter two kinds, -1 if there is none.
    """

    truncated: int = 0
    without_tokens: int = 0
    unknown_only: int = 0
    example: int = -1


@dataclass(frozen=True)
class Tokens:
    """Token ids of all texts: those of item `i` are `ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    Items that are not text have none; texts come first among the items.
    """

    ids: TokenIds
    offsets: Ints
    counts: Counts = Counts()

    @classmethod
    def of_nothing(cls) -> Tokens:
        """Return the tokens of items without any text."""
        return cls(np.empty(0, np.uint16), np.zeros(1, np.int64))

    @classmethod
    def build(cls, items: Items, tokenizer: Any, max_length: int, progress: Progress | None = None) -> Tokens:
        """Tokenize every text, truncated to `max_length` tokens, in memory.

        `tokenizer` is a fast tokenizer of transformers.

        Raises:
            ModelError: it is not a fast one.
        """
        return cls.of(FastTokenizer(tokenizer, max_length), items.texts, progress)

    @classmethod
    def of(cls, fast: FastTokenizer, texts: pa.Array, progress: Progress | None = None) -> Tokens:
        """Tokenize texts (large_string, without nulls) in memory."""
        counter = _Counter()
        chunks = list(counter.chunks(fast, texts, progress))
        ids = np.concatenate([np.empty(0, fast.dtype), *(chunk.ids for chunk in chunks)])
        return cls(ids, counter.offsets(), counter.counts)

    @classmethod
    def cached(
        cls, items: Items, tokenizer: Any, max_length: int, cache: Cache | None, progress: Progress | None = None
    ) -> Tokens:
        """Return the same as `build`, memory-mapped from `cache`, which is filled first if necessary.

        Of several processes that request the same tokens, one computes them and the others wait. Where the cache is
        unavailable, and without a cache, the tokens are in memory.
        """
        if cache is None:
            return cls.build(items, tokenizer, max_length, progress)

        def make(folder: Path) -> None:
            _write(folder, items.texts, FastTokenizer(tokenizer, max_length), progress)

        with suppress(CacheUnavailable):
            return cache.load("tokens", key_of(items.texts, tokenizer, max_length), make, _read)
        return cls.build(items, tokenizer, max_length, progress)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Tokens of each text, (N,)."""
        return np.diff(self.offsets)

    def take(self, rows: Ints) -> tuple[TokenIds, Ints]:
        """Return the concatenated ids of these items, (T,), and how many each has."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        return self.ids[flat_ranges(starts, lengths)], lengths

    def facts(self) -> dict[str, int | float]:
        """Return the numbers that a report shows."""
        lengths, counts = self.lengths, self.counts
        return {
            "tokens": len(self.ids),
            "mean_tokens": round(float(lengths.mean()), 1) if len(self) else 0.0,
            "longest_text_tokens": int(lengths.max(initial=0)),
            "truncated_texts": counts.truncated,
            "truncated_share": round(counts.truncated / max(1, len(self)), 4),
            "texts_without_tokens": counts.without_tokens,
            "unknown_only_texts": counts.unknown_only,
        }

    def note(self, items: Items) -> str | None:
        """Return one sentence about texts that are empty to the model, with an example; None if there are none."""
        counts = self.counts
        if counts.example < 0:
            return None
        kinds = []
        for count, what in (
            (counts.without_tokens, "no token at all"),
            (counts.unknown_only, "nothing but unknown tokens"),
        ):
            if count:
                kinds.append(f"{count:,} {'has' if count == 1 else 'have'} {what}")
        found = " and ".join(kinds)
        example = cut(items.take(np.array([counts.example]))[0])
        return f"of {len(self):,} texts {found}, such as {example!r}: to the model they are all the same."


def key_of(texts: pa.Array, tokenizer: Any, max_length: int) -> str:
    """Return a digest of everything that the tokens depend on: the texts, the tokenizer, and the length."""
    import tokenizers
    import transformers

    if texts.null_count:
        raise ValueError("a text is never null")
    with no_truncation(tokenizer):
        backend = tokenizer.backend_tokenizer.to_str()
    settings = (
        tokenizer.truncation_side,
        tokenizer.split_special_tokens,
        tokenizer.unk_token_id,
        type(tokenizer).__name__,
    )
    versions = (FORMAT, tokenizers.__version__, transformers.__version__)
    digest = hashlib.sha256(json.dumps([versions, max_length, settings, backend]).encode())
    update_digest(digest, texts)
    return digest.hexdigest()


class _Counter:
    """Counts the texts and tokens of the chunks that it yields."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._lengths: list[Ints] = []

    def chunks(self, fast: FastTokenizer, texts: pa.Array, progress: Progress | None) -> Generator[Chunk, None, None]:
        done = 0
        for chunk in fast.chunks(texts):
            self._count(chunk, done, fast)
            self._lengths.append(chunk.lengths)
            yield chunk
            done += len(chunk.lengths)
            if progress:
                progress(done, len(texts))

    def offsets(self) -> Ints:
        """Return the offset of each text, and the end of the last one, (N + 1,)."""
        return np.concatenate([np.zeros(1, np.int64), *self._lengths]).cumsum()

    def _count(self, chunk: Chunk, first: int, fast: FastTokenizer) -> None:
        empty_N = chunk.lengths <= fast.special_tokens
        unknown_N = _unknown(chunk, fast.tokenizer.unk_token_id)
        unknown_N = (unknown_N > 0) & (unknown_N == chunk.lengths - fast.special_tokens)
        bad = np.flatnonzero(empty_N | unknown_N)
        counts, example = self.counts, self.counts.example
        if example < 0 and len(bad):
            example = first + int(bad[0])
        self.counts = Counts(
            counts.truncated + chunk.truncated,
            counts.without_tokens + int(np.count_nonzero(empty_N)),
            counts.unknown_only + int(np.count_nonzero(unknown_N)),
            example,
        )


def _unknown(chunk: Chunk, unknown_id: int | None) -> Ints:
    """Return how many unknown tokens each text has, (N,)."""
    if unknown_id is None:
        return np.zeros(len(chunk.lengths), np.int64)
    places = np.flatnonzero(chunk.ids == unknown_id)
    text = np.searchsorted(np.cumsum(chunk.lengths), places, side="right")
    return np.bincount(text, minlength=len(chunk.lengths))


def _write(folder: Path, texts: pa.Array, fast: FastTokenizer, progress: Progress | None) -> None:
    counter, raw = _Counter(), folder / "ids.raw"
    # Closed at once if the disk is full: then the tokenizer is needed again, to tokenize in memory.
    with raw.open("wb") as file, closing(counter.chunks(fast, texts, progress)) as chunks:
        for chunk in chunks:
            file.write(chunk.ids.data)
    # The header of an Arrow file needs the length of the array, which is only known now. A memory map is copied without
    # loading it into memory.
    ids: TokenIds = np.empty(0, fast.dtype)
    if raw.stat().st_size:
        ids = np.memmap(raw, fast.dtype, "r")
    write_array(folder / "ids.arrow", pa.array(ids))
    raw.unlink()
    write_array(folder / "offsets.arrow", pa.array(counter.offsets()))
    (folder / "counts.json").write_text(json.dumps(asdict(counter.counts)), encoding="utf-8")


def _read(folder: Path) -> Tokens:
    counts = Counts(**json.loads((folder / "counts.json").read_text(encoding="utf-8")))
    return Tokens(read_numbers(folder / "ids.arrow"), read_numbers(folder / "offsets.arrow"), counts)
