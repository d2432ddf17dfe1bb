"""Token ids by distinct words: each word is tokenized once, and texts are assembled from them with integer arrays.

For BERT tokenizers, the two sides of a space are independent: cleaning, lower case and accents work on characters (a
space has no accents and joins with none), the pre-tokenizer splits at every space, and WordPiece sees one word at a
time. So the ids of a text are the concatenated ids of its parts between spaces. Only the space (U+0020) is used as a
boundary: other white space may be removed instead of splitting words (vertical tab), so it stays inside a part, where
the tokenizer treats it as usual.

N texts, W words of them, T tokens.
"""

from __future__ import annotations

import json
from itertools import chain
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.arrays import Ints, flat_ranges

MOST_WORDS = 500_000  # distinct words that are cached; beyond that, memory matters more than time
MOST_BYTES = 32 << 20
AT_ONCE = 1 << 14  # words per call of the tokenizer

_PROCESSORS = ("BertProcessing", "RobertaProcessing", "TemplateProcessing")
_NORMALIZER = {"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}
_ADDED = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}


class SpecialTokens(NamedTuple):
    """The ids that the tokenizer adds before and after every text."""

    before: list[int]
    after: list[int]


class CachedWords(NamedTuple):
    """Words and their ids: those of word `i` are `ids[starts[i]:starts[i] + lengths[i]]`."""

    words: pa.Array
    ids: npt.NDArray[np.integer[Any]]
    starts: Ints
    lengths: Ints


class WordPieces:
    """Tokenizes texts by their words; may be used by several threads at once.

    `backend` is a tokenizer of the tokenizers library without truncation and padding that `special_tokens_of` supports;
    `dtype` is the type of the ids.
    """

    def __init__(self, backend: Any, dtype: npt.DTypeLike) -> None:
        self.backend = backend
        self._empty = CachedWords(pa.array([], pa.large_string()), np.empty(0, dtype), *[np.empty(0, np.int64)] * 2)
        self._cached = self._empty
        self._lock = Lock()

    def ids(self, texts: pa.Array) -> tuple[npt.NDArray[np.integer[Any]], Ints]:
        """Return the concatenated ids of all texts without special tokens, (T,), and how many each has, (N,)."""
        parts = pc.split_pattern(texts, " ")
        word_W = parts.values.dictionary_encode()
        cached, places = self._look_up(word_W.dictionary)
        place_W = places[word_W.indices.to_numpy()]
        lengths_W = cached.lengths[place_W]
        ids_T = cached.ids[flat_ranges(cached.starts[place_W], lengths_W)]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_W)])
        return ids_T, np.diff(ends[parts.offsets.to_numpy()])

    def _look_up(self, words: pa.Array) -> tuple[CachedWords, Ints]:
        """Return the cached words, which now include these distinct words, and the indices of these words there."""
        with self._lock:
            cached = self._cached
            if len(cached.words) > MOST_WORDS or cached.words.nbytes > MOST_BYTES:
                cached = self._empty
            places: Ints = pc.index_in(words, value_set=cached.words).fill_null(-1).to_numpy().astype(np.int64)
            is_new = places < 0
            places[is_new] = len(cached.words) + np.arange(np.count_nonzero(is_new))
            cached = self._add(cached, words.filter(pa.array(is_new)))
            self._cached = cached
        return cached, places

    def _add(self, cached: CachedWords, words: pa.Array) -> CachedWords:
        ids, lengths = [cached.ids], [cached.lengths]
        for start in range(0, len(words), AT_ONCE):
            batch = words.slice(start, AT_ONCE).to_pylist()
            rows = [encoding.ids for encoding in self.backend.encode_batch_fast(batch, add_special_tokens=False)]
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            ids.append(np.fromiter(chain.from_iterable(rows), cached.ids.dtype))
        all_lengths = np.concatenate(lengths)
        starts = np.cumsum(all_lengths) - all_lengths
        return CachedWords(pa.concat_arrays([cached.words, words]), np.concatenate(ids), starts, all_lengths)


def special_tokens_of(backend: Any) -> SpecialTokens | None:
    """Return the special tokens of `backend`, None if the ids of a text depend on more than its words.

    Only configurations that are known in every detail are supported.
    """
    config = json.loads(backend.to_str())
    if not _is_by_words(config):
        return None
    special = _read_special_tokens(config["post_processor"])
    if special is None or not all(_adds(backend, special, text) for text in ("", "a", "a b")):
        return None
    return special


def _is_by_words(config: dict[str, Any]) -> bool:
    normalizer = config["normalizer"]
    if normalizer is not None and (normalizer["type"] != "BertNormalizer" or set(normalizer) != _NORMALIZER):
        return False
    return (
        config["model"].get("type") == "WordPiece"
        and config["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and all(map(_is_one_word, config["added_tokens"]))
    )


def _is_one_word(added: dict[str, Any]) -> bool:
    # Stripping removes white space that is removed anyway, and a space ends a word as the end of a text does. Tokens
    # that are not ASCII are unsupported: the normalizer may turn them into more than one word.
    content = added["content"]
    return set(added) == _ADDED and content.isascii() and content.isprintable() and content != "" and " " not in content


def _read_special_tokens(processor: dict[str, Any] | None) -> SpecialTokens | None:
    if processor is None:
        return SpecialTokens([], [])
    if processor["type"] not in _PROCESSORS:
        return None
    if processor["type"] != "TemplateProcessing":
        return SpecialTokens([processor["cls"][1]], [processor["sep"][1]])
    sides: list[list[int]] = [[]]
    for piece in processor["single"]:
        if "Sequence" in piece:
            sides.append([])
        else:
            sides[-1] += processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    if len(sides) != 2:
        return None
    return SpecialTokens(*sides)


def _adds(backend: Any, special: SpecialTokens, text: str) -> bool:
    """Return whether `backend` adds just these tokens to a text."""
    bare = backend.encode(text, add_special_tokens=False).ids
    return bool(backend.encode(text).ids == [*special.before, *bare, *special.after])
