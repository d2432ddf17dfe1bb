"""Embeddings of any number of items: each distinct text once, the longest first, in the order of the items at the end.

Shapes: N items, U distinct ones, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune.console import Bar
from finetune.data.arrays import Ints
from finetune.data.tokens.tokenize import slices
from finetune.errors import FinetuneError
from finetune.evaluation.truncation_quantization import normalize as to_unit_length
from finetune.inference.embedder import Block
from finetune.inference.items import as_pairs, as_texts, blocks_of, distinct
from finetune.inference.media import is_image
from finetune.inference.quantize import Floats, Precision, dtype_of, quantize, ranges_of, stored_width
from finetune.models.encoder import Encoder

BLOCK_TEXTS = 8_192
BLOCK_BYTES = 8 << 20
BLOCK_MEDIA = 256  # images, point clouds or vectors
_BLOCKS_PER_PROCESS = 4  # of few texts, so that all processes are busy to the end
_FEWEST_TEXTS = 64
_COPIED_ROWS = 1 << 16


class Embedder(Protocol):
    """Embeds blocks on one device or several."""

    def embed_all(self, blocks: Iterable[Block]) -> Iterator[Floats]:
        """Yield the embeddings of each block, in order."""
        ...


@dataclass(frozen=True)
class Options:
    """How items are embedded, and by how many `processes`.

    `ranges_2D` are those for int8, None if they are to be found in the embeddings.
    """

    encoder: Encoder
    dimensions: int
    prompt: str
    normalize: bool
    precision: Precision
    ranges_2D: Floats | None
    token_budget: int | None
    processes: int = 1

    @property
    def width(self) -> int:
        """How many numbers an embedding has."""
        return stored_width(self.dimensions, self.precision)

    def finish(self, emb_ND: Floats) -> NDArray[Any]:
        """Return full embeddings cut, scaled and quantized."""
        emb_Nd = emb_ND[:, : self.dimensions]
        if self.normalize:
            emb_Nd = to_unit_length(emb_Nd)
        return quantize(emb_Nd, self.precision, self.ranges_2D)


def encode(
    embedder: Embedder, items: Any, options: Options, out: NDArray[Any] | None = None, show_progress: bool = False
) -> NDArray[Any]:
    """Return the embeddings `(N, D)` of items with a length, written into `out` if it is given."""
    if options.precision == "int8" and options.ranges_2D is None and len(items):
        # The ranges are those of the embeddings themselves.
        emb_Nd = encode(embedder, items, replace(options, precision="float32"), show_progress=show_progress)
        stored_Nd = quantize(emb_Nd, "int8", ranges_of(emb_Nd))
        if out is None:
            return stored_Nd
        _check_out(out, len(items), options)
        out[:] = stored_Nd
        return out
    if out is None:
        out = np.empty((len(items), options.width), dtype_of(options.precision))
    _check_out(out, len(items), options)
    for rows, blocks, duplicates in _parts(items, options):
        _fill(embedder, blocks, rows, out, options, show_progress)
        for start in range(0, len(duplicates), _COPIED_ROWS):
            part = duplicates[start : start + _COPIED_ROWS]
            out[part[:, 0]] = out[part[:, 1]]
    return out


def encode_stream(embedder: Embedder, items: Iterable[Any], options: Options, size: int) -> Iterator[NDArray[Any]]:
    """Yield the embeddings of consecutive items, `size` at a time."""
    for block in blocks_of(items, size):
        yield encode(embedder, block, options)


def _check_out(out: NDArray[Any], items: int, options: Options) -> None:
    expected = (items, options.width), np.dtype(dtype_of(options.precision))
    if (out.shape, out.dtype) != expected:
        what = f"out is an array {out.shape} of {out.dtype}, and the embeddings are {expected[0]} of {expected[1]}."
        raise FinetuneError(what, "Make it of this shape and type.")


def _fill(
    embedder: Embedder, blocks: list[Block], rows_U: Ints, out: NDArray[Any], options: Options, show_progress: bool
) -> None:
    """Embed blocks, and write the embeddings into these rows of `out`."""
    done = 0
    with ExitStack() as stack:
        bar = stack.enter_context(Bar("embedding", len(rows_U), "items")) if show_progress else None
        for emb_nD in embedder.embed_all(blocks):
            out[rows_U[done : done + len(emb_nD)]] = options.finish(emb_nD)
            done += len(emb_nD)
            if bar is not None:
                bar.update(done)


def _parts(items: Any, options: Options) -> Iterator[tuple[Ints, list[Block], Ints]]:
    """Yield, for texts and for other items: the rows that are embedded, in blocks, and rows (copy, original)."""
    encoder = options.encoder
    if encoder.scores_pairs:
        left, right = as_pairs(items)
        yield np.arange(len(left)), _pair_blocks(left, right, options), _NO_COPIES
        return
    if encoder.reads == ("text",):
        yield _text_part(as_texts(items), np.arange(len(items)), options)
        return
    items = items.to_pylist() if isinstance(items, pa.Array | pa.ChunkedArray) else list(items)
    media = [row for row, item in enumerate(items) if encoder.reads[0] != "text" or is_image(item)]
    texts = np.setdiff1d(np.arange(len(items)), media)
    if len(texts):
        yield _text_part(as_texts([items[row] for row in texts]), texts, options)
    if media:
        yield np.array(media), _media_blocks([items[row] for row in media], options), _NO_COPIES


_NO_COPIES = np.empty((0, 2), np.int64)


def _text_part(texts: pa.Array, rows_N: Ints, options: Options) -> tuple[Ints, list[Block], Ints]:
    values, index_N = distinct(texts)
    first_U = np.empty(len(values), np.int64)
    first_U[index_N[::-1]] = np.arange(len(texts))[::-1]
    original_N = first_U[index_N]
    copies = np.flatnonzero(original_N != np.arange(len(texts)))
    return rows_N[first_U], _text_blocks(values, options), np.column_stack([rows_N[copies], rows_N[original_N[copies]]])


def _text_blocks(texts: pa.Array, options: Options) -> list[Block]:
    parts = slices(texts, _block_texts(len(texts), options.processes), BLOCK_BYTES)
    return [Block(part, prompt=options.prompt, token_budget=options.token_budget) for part in parts]


def _block_texts(texts: int, processes: int) -> int:
    """Return how many texts a block has at most."""
    if processes == 1:
        return BLOCK_TEXTS
    return min(BLOCK_TEXTS, max(_FEWEST_TEXTS, -(-texts // (processes * _BLOCKS_PER_PROCESS))))


def _pair_blocks(left: pa.Array, right: pa.Array, options: Options) -> list[Block]:
    size = _block_texts(len(left), options.processes)
    return [
        Block(left.slice(start, size), right.slice(start, size), token_budget=options.token_budget)
        for start in range(0, len(left), size)
    ]


def _media_blocks(items: Sequence[Any], options: Options) -> list[Block]:
    starts = range(0, len(items), BLOCK_MEDIA)
    return [
        Block(media=items[start : start + BLOCK_MEDIA], first=start, token_budget=options.token_budget)
        for start in starts
    ]
