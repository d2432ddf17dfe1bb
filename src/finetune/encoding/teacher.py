"""Embeddings of the items by another model, the teacher: computed once before the training, and cached.

Shapes: N items, D width of the teacher.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from finetune.console import Bar
from finetune.data.cache.arrow_files import read_array, write_array
from finetune.data.cache.store import Cache, CacheUnavailable
from finetune.data.items import Items
from finetune.data.tokens.token_store import Tokens, key_of
from finetune.encoding.engine import Engine
from finetune.errors import CheckFailed, Problem
from finetune.models.digest import digest_of
from finetune.models.resolve import resolve
from finetune.models.text import TextEncoder

Halves = NDArray[np.float16]

_FORMAT = 3  # of the cache entries: a new number invalidates all of them


def teacher_embeddings(name: str, items: Items, max_length: int, device: torch.device, cache: bool) -> Halves:
    """Return the embeddings `(N, D)` of all texts by text encoder `name`, in fp16; memory-mapped if `cache` is set.

    Raises:
        ModelError: the teacher is not found or cannot be loaded.
        CheckFailed: there are items that are not texts.
    """
    if len(items) > len(items.texts):
        raise CheckFailed([Problem("loss.teacher", "a teacher embeds texts, and there are other items.")])
    encoder = TextEncoder(name).eval()

    def make(folder: Path) -> None:
        emb_ND = _embed(encoder, items, max_length, device)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(emb_ND.ravel()), emb_ND.shape[1])
        write_array(folder / "embeddings.arrow", rows)

    if cache:
        with suppress(CacheUnavailable):
            return Cache().load("teacher", _key(name, items, encoder.tokenizer, max_length), make, _read)
    return _embed(encoder, items, max_length, device)


def _embed(encoder: TextEncoder, items: Items, max_length: int, device: torch.device) -> Halves:
    tokens = Tokens.build(items, encoder.tokenizer, max_length)
    encoder.to(device)
    emb_ND = np.empty((len(tokens), encoder.width), np.float16)
    done = 0
    with Bar("embedding by the teacher", len(tokens), "texts") as bar:
        for rows, emb_nD in Engine().embed(encoder, tokens, np.arange(len(tokens))):
            emb_ND[rows] = emb_nD.cpu().numpy()
            done += len(rows)
            bar.update(done)
    return emb_ND


def _read(folder: Path) -> Halves:
    values = read_array(folder / "embeddings.arrow")
    flat: Halves = values.flatten().to_numpy()
    return flat.reshape(len(values), -1)


def _key(name: str, items: Items, tokenizer: Any, max_length: int) -> str:
    """Return a digest of everything that the embeddings depend on: format, texts, tokenizer, and files of the model."""
    parts = (_FORMAT, key_of(items.texts, tokenizer, max_length), digest_of(resolve(name)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()
