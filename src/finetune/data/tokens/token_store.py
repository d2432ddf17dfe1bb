"""Tokens: the token ids of every text, made once, kept flat, and mapped into memory from the cache.

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
from finetune.data.tokens.tokenize import Chunk, TokenIds, Tokenizer, offsets_of, plain

FORMAT = 1  # of what is kept in the cache: another number makes everything be tokenised again

Progress = Callable[[int, int], None]  # called with the texts that are done, and the texts in all


@dataclass(frozen=True)
class Counts:
    """What was met while tokenising: texts that were cut, texts that became nothing, texts of unknown tokens only.

    `example` is the number of the first of the latter two kinds, -1 if there is none.
    """

    truncated: int = 0
    without_tokens: int = 0
    unknown_only: int = 0
    example: int = -1


@dataclass(frozen=True)
class Tokens:
    """Token ids of all texts: those of item `i` are `ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    Items that are no texts have none; texts come first among the items.
    """

    ids: TokenIds
    offsets: Ints
    counts: Counts = Counts()

    @classmethod
    def of_nothing(cls) -> Tokens:
        """Return the tokens of items among which there is no text."""
        return cls(np.empty(0, np.uint16), np.zeros(1, np.int64))

    @classmethod
    def build(cls, items: Items, tokenizer: Any, max_length: int, progress: Progress | None = None) -> Tokens:
        """Tokenise every text, cut to `max_length` tokens, in memory.

        `tokenizer` is a fast tokenizer of transformers.

        Raises:
            ModelError: it is not a fast one.
        """
        tokeniser, tally = Tokenizer(tokenizer, max_length), _Tally()
        chunks = list(tally.over(tokeniser, items.texts, progress))
        ids = np.concatenate([np.empty(0, tokeniser.dtype), *(chunk.ids for chunk in chunks)])
        return cls(ids, tally.offsets(), tally.counts)

    @classmethod
    def cached(
        cls, items: Items, tokenizer: Any, max_length: int, cache: Cache | None, progress: Progress | None = None
    ) -> Tokens:
        """Return the same as `build`, mapped into memory from `cache`, where it is made if it is not there.

        Several processes that ask for the same wait for one of them to make it. Where nothing can be kept, and without
        a cache, the tokens are in memory.
        """
        if cache is None:
            return cls.build(items, tokenizer, max_length, progress)

        def make(folder: Path) -> None:
            _write(folder, items.texts, Tokenizer(tokenizer, max_length), progress)

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
        """Return the ids of these items one after the other, (T,), and how many each has."""
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
        """Return one sentence about texts that say nothing to the model, with an example; None if there are none."""
        counts = self.counts
        kinds = ((counts.without_tokens, "no token at all"), (counts.unknown_only, "nothing but unknown tokens"))
        if counts.example < 0:
            return None
        found = " and ".join(f"{count:,} {'has' if count == 1 else 'have'} {what}" for count, what in kinds if count)
        example = cut(items.take(np.array([counts.example]))[0])
        return f"of {len(self):,} texts {found}, such as {example!r}: to the model they are all the same."


def key_of(texts: pa.Array, tokenizer: Any, max_length: int) -> str:
    """Return a digest of all that the tokens depend on: the texts, the tokenizer, and the length."""
    import tokenizers
    import transformers

    if texts.null_count:
        raise ValueError("a text is never null")
    with plain(tokenizer):
        made_of = tokenizer.backend_tokenizer.to_str()
    says = (tokenizer.truncation_side, tokenizer.split_special_tokens, tokenizer.unk_token_id, type(tokenizer).__name__)
    versions = (FORMAT, tokenizers.__version__, transformers.__version__)
    digest = hashlib.sha256(json.dumps([versions, max_length, says, made_of]).encode())
    offsets = offsets_of(texts)
    # The same texts have the same digest wherever they stand in the memory of a larger array.
    digest.update(np.diff(offsets).data)
    if data := texts.buffers()[2]:
        digest.update(memoryview(data)[offsets[0] : offsets[-1]])
    return digest.hexdigest()


class _Tally:
    """Counts what goes by."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._lengths: list[Ints] = []

    def over(self, tokeniser: Tokenizer, texts: pa.Array, progress: Progress | None) -> Generator[Chunk, None, None]:
        done = 0
        for chunk in tokeniser.chunks(texts):
            self._count(chunk, done, tokeniser)
            self._lengths.append(chunk.lengths)
            yield chunk
            done += len(chunk.lengths)
            if progress:
                progress(done, len(texts))

    def offsets(self) -> Ints:
        """Return where each text begins, and where the last one ends, (N + 1,)."""
        return np.concatenate([np.zeros(1, np.int64), *self._lengths]).cumsum()

    def _count(self, chunk: Chunk, first: int, tokeniser: Tokenizer) -> None:
        nothing_N = chunk.lengths <= tokeniser.marks
        unknown_N = _unknown(chunk, tokeniser.tokenizer.unk_token_id)
        unknown_N = (unknown_N > 0) & (unknown_N == chunk.lengths - tokeniser.marks)
        bad = np.flatnonzero(nothing_N | unknown_N)
        counts = self.counts
        self.counts = Counts(
            counts.truncated + chunk.truncated,
            counts.without_tokens + int(np.count_nonzero(nothing_N)),
            counts.unknown_only + int(np.count_nonzero(unknown_N)),
            first + int(bad[0]) if counts.example < 0 and len(bad) else counts.example,
        )


def _unknown(chunk: Chunk, unknown_id: int | None) -> Ints:
    """Return how many unknown tokens each text has, (N,)."""
    places = np.flatnonzero(chunk.ids == unknown_id) if unknown_id is not None else np.empty(0, np.int64)
    text = np.searchsorted(np.cumsum(chunk.lengths), places, side="right")
    return np.bincount(text, minlength=len(chunk.lengths))


def _write(folder: Path, texts: pa.Array, tokeniser: Tokenizer, progress: Progress | None) -> None:
    tally, raw = _Tally(), folder / "ids.raw"
    # Closed at once if the disk is full: the tokenizer is then needed for tokenising in memory.
    with raw.open("wb") as file, closing(tally.over(tokeniser, texts, progress)) as chunks:
        for chunk in chunks:
            file.write(chunk.ids.data)
    # An Arrow file says first how long an array is, which is only known now. Mapped, it is copied without being held.
    ids = np.memmap(raw, tokeniser.dtype, "r") if raw.stat().st_size else np.empty(0, tokeniser.dtype)
    write_array(folder / "ids.arrow", pa.array(ids))
    raw.unlink()
    write_array(folder / "offsets.arrow", pa.array(tally.offsets()))
    (folder / "counts.json").write_text(json.dumps(asdict(tally.counts)), encoding="utf-8")


def _read(folder: Path) -> Tokens:
    counts = Counts(**json.loads((folder / "counts.json").read_text(encoding="utf-8")))
    return Tokens(read_numbers(folder / "ids.arrow"), read_numbers(folder / "offsets.arrow"), counts)
