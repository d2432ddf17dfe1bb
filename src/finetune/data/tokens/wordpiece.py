"""Token ids by way of distinct words: each is tokenised once, and texts are put together from them by integers.

BERT's tokenizers make nothing of what stands on both sides of a space: cleaning, lower case and accents are a matter of
characters (a space has no accents: it takes no mark and gives none), the pre-tokenizer parts at every space, and
WordPiece sees one word at a time. So the ids of a text are those of its parts between spaces, one after the other. The
space (U+0020) alone is taken as a boundary: other white space may be removed instead of parting words (vertical tab),
and stays inside a part, where the tokenizer treats it as it always does.

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

MOST_WORDS = 500_000  # distinct words that are remembered; with more the memory is worth more than the time
MOST_BYTES = 32 << 20
AT_ONCE = 1 << 14  # words given to the tokenizer together

_PROCESSORS = ("BertProcessing", "RobertaProcessing", "TemplateProcessing")
_NORMALIZER = {"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}
_ADDED = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}


class SpecialTokenLayout(NamedTuple):
    """What the tokenizer puts around every text: the ids before and after."""

    before: list[int]
    after: list[int]


class Known(NamedTuple):
    """Words and their ids: those of word `i` are `ids[starts[i]:starts[i] + lengths[i]]`."""

    words: pa.Array
    ids: npt.NDArray[np.integer[Any]]
    starts: Ints
    lengths: Ints


class WordPieces:
    """Tokenises texts by their words; several threads may do so together.

    `backend` is a tokenizer of the tokenizers library that neither cuts nor pads, of which `frame_of` knows the frame;
    `dtype` is the type of the ids.
    """

    def __init__(self, backend: Any, dtype: npt.DTypeLike) -> None:
        self.backend = backend
        self._none = Known(pa.array([], pa.large_string()), np.empty(0, dtype), *[np.empty(0, np.int64)] * 2)
        self._known = self._none
        self._learning = Lock()

    def ids(self, texts: pa.Array) -> tuple[npt.NDArray[np.integer[Any]], Ints]:
        """Return the ids of all texts in a row without what frames them, (T,), and how many each text has, (N,)."""
        parts = pc.split_pattern(texts, " ")
        word_W = parts.values.dictionary_encode()
        known, places = self._look_up(word_W.dictionary)
        place_W = places[word_W.indices.to_numpy()]
        lengths_W = known.lengths[place_W]
        ids_T = known.ids[flat_ranges(known.starts[place_W], lengths_W)]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_W)])
        return ids_T, np.diff(ends[parts.offsets.to_numpy()])

    def _look_up(self, words: pa.Array) -> tuple[Known, Ints]:
        """Return what is known, these distinct words now among it, and their places there."""
        with self._learning:
            known = self._known
            if len(known.words) > MOST_WORDS or known.words.nbytes > MOST_BYTES:
                known = self._none
            places: Ints = pc.index_in(words, value_set=known.words).fill_null(-1).to_numpy().astype(np.int64)
            is_new = places < 0
            places[is_new] = len(known.words) + np.arange(np.count_nonzero(is_new))
            self._known = known = self._with(known, words.filter(pa.array(is_new)))
        return known, places

    def _with(self, known: Known, words: pa.Array) -> Known:
        ids, lengths = [known.ids], [known.lengths]
        for start in range(0, len(words), AT_ONCE):
            some = words.slice(start, AT_ONCE).to_pylist()
            rows = [each.ids for each in self.backend.encode_batch_fast(some, add_special_tokens=False)]
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            ids.append(np.fromiter(chain.from_iterable(rows), known.ids.dtype))
        together = np.concatenate(lengths)
        starts = np.cumsum(together) - together
        return Known(pa.concat_arrays([known.words, words]), np.concatenate(ids), starts, together)


def frame_of(backend: Any) -> SpecialTokenLayout | None:
    """Return what `backend` puts around a text, or None if the words of a text are not all that decides its ids.

    Only what is known to the last detail is accepted.
    """
    made_of = json.loads(backend.to_str())
    if not _is_by_words(made_of):
        return None
    frame = _read_frame(made_of["post_processor"])
    return frame if frame and all(_frames(backend, frame, text) for text in ("", "a", "a b")) else None


def _is_by_words(made_of: dict[str, Any]) -> bool:
    normalizer = made_of["normalizer"]
    return (
        made_of["model"].get("type") == "WordPiece"
        and made_of["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and (normalizer is None or (normalizer["type"] == "BertNormalizer" and set(normalizer) == _NORMALIZER))
        and all(map(_is_one_word, made_of["added_tokens"]))
    )


def _is_one_word(added: dict[str, Any]) -> bool:
    # Stripping takes white space that goes anyway, and a space ends a word as the end of a text does. What is not ASCII
    # is not worth a proof: the normalizer may turn it into more than one word.
    content = added["content"]
    return set(added) == _ADDED and content.isascii() and content.isprintable() and content != "" and " " not in content


def _read_frame(processor: dict[str, Any] | None) -> SpecialTokenLayout | None:
    if processor is None:
        return SpecialTokenLayout([], [])
    if processor["type"] not in _PROCESSORS:
        return None
    if processor["type"] != "TemplateProcessing":
        return SpecialTokenLayout([processor["cls"][1]], [processor["sep"][1]])
    sides: list[list[int]] = [[]]
    for piece in processor["single"]:
        if "Sequence" in piece:
            sides.append([])
        else:
            sides[-1] += processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return SpecialTokenLayout(*sides) if len(sides) == 2 else None


def _frames(backend: Any, frame: SpecialTokenLayout, text: str) -> bool:
    bare = backend.encode(text, add_special_tokens=False).ids
    return bool(backend.encode(text).ids == [*frame.before, *bare, *frame.after])
