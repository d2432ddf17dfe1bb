"""Embeds blocks of items on one device, in inference mode, with packed texts; may be used by several threads.

Shapes: N items of a block, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from finetune.data.arrays import Ints
from finetune.data.tokens.token_store import Tokens
from finetune.data.tokens.tokenize import FastTokenizer
from finetune.encoding.engine import Engine
from finetune.errors import MemoryRanOut, RunError
from finetune.inference.build_encoder import InferenceSettings
from finetune.inference.media import Media
from finetune.inference.prompted_text import PromptedTextEncoder
from finetune.inference.quantize import Floats
from finetune.models.encoder import Encoder
from finetune.models.linear import speed_up_linears

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Block:
    """Items to embed: `texts`, each after `prompt`, or with `right` pairs of texts; or `media`, items of another kind.

    `first` is the number of the first item in what the user gave. `token_budget` limits a micro-batch.
    """

    texts: pa.Array | None = None
    right: pa.Array | None = None
    media: Sequence[Any] | None = None
    prompt: str = ""
    first: int = 0
    token_budget: int | None = None

    def __len__(self) -> int:
        if self.texts is not None:
            return len(self.texts)
        assert self.media is not None
        return len(self.media)


class LocalEmbedder:
    """An encoder on one device with its tokenizer."""

    def __init__(self, encoder: Encoder, settings: InferenceSettings, device: torch.device, dtype: Dtype) -> None:
        self.encoder = encoder.to(device).eval().requires_grad_(False)
        speed_up_linears(self.encoder)
        self.device, self.dtype = device, dtype
        self._settings = settings
        self._engine = Engine(embed_precision="bf16-mixed" if dtype == "bfloat16" else "32-true")
        self._tokenizer: FastTokenizer | None = None
        if settings.max_length is not None:
            self._tokenizer = FastTokenizer(encoder.tokenizer, settings.max_length)
            self._pairing = encoder.pairing(settings.max_length)
        self._token_embedding = encoder.token_embedding()  # keeps weights of fused layers, which it concatenates once
        self._tokenizing = Lock()  # a fast tokenizer raises "Already borrowed" where two threads use it
        self._with_prompt: dict[str, Encoder] = {}
        self.tokens = 0  # that were computed so far, to report the speed

    @property
    def token_budget(self) -> int:
        """How many tokens are computed at a time, unless a block says otherwise."""
        return self._engine.budget(self.encoder).tokens

    def embed_all(self, blocks: Iterable[Block]) -> Iterator[Floats]:
        """Yield the embeddings of each block, in order."""
        yield from map(self.embed, blocks)

    def embed(self, block: Block) -> Floats:
        """Return the embeddings `(N, D)` of one block; if memory runs out, micro-batches become smaller.

        Raises:
            RunError: memory does not suffice for a single item.
        """
        budget = block.token_budget or self.token_budget
        try:
            return self._embed(block, budget)
        except MemoryRanOut as error:
            what = f"memory ran out on {self.device} for a single item."
            raise RunError(what, "Cut the texts (max_length=...), or use another device or model.") from error

    def close(self) -> None:
        """Free nothing: there are no other processes."""

    def _embed(self, block: Block, budget: int) -> Floats:
        if block.media is not None:
            media = Media(block.media, self.encoder, block.first)
            return self._run(self.encoder, Tokens.of_nothing(), np.arange(len(media)), budget, media)
        assert block.texts is not None
        if block.right is not None:
            return self._run(self.encoder, self._pairs(block.texts, block.right), None, budget)
        texts = block.texts
        if block.prompt:
            texts = pc.binary_join_element_wise(_scalar(block.prompt), texts, _scalar(""))
        return self._run(self._encoder_for(block.prompt), self._tokens(texts), None, budget)

    def _run(
        self, encoder: Encoder, tokens: Tokens, items: Ints | None, budget: int, media: Media | None = None
    ) -> Floats:
        if items is None:
            items = np.flatnonzero(tokens.lengths)  # a text without any token stays zero
            count = len(tokens)
        else:
            count = len(items)
        emb_ND = np.zeros((count, encoder.width), np.float32)
        for positions, emb_nD in self._engine.embed(
            encoder, tokens, items, media, budget, token_embedding=self._token_embedding
        ):
            emb_ND[items[positions]] = emb_nD.cpu().numpy()
        self.tokens += int(tokens.lengths.sum())
        return emb_ND

    def _tokens(self, texts: pa.Array) -> Tokens:
        assert self._tokenizer is not None
        with self._tokenizing:
            return Tokens.of(self._tokenizer, texts)

    def _pairs(self, left: pa.Array, right: pa.Array) -> Tokens:
        assert self._pairing is not None
        tokens = self._tokens(pa.concat_arrays([left, right]))
        rows = np.arange(len(left))
        ids_T2, lengths_P = self._pairing.of_items(tokens, rows, rows + len(left))
        return Tokens(ids_T2, np.concatenate([[0], np.cumsum(lengths_P)]))

    def _encoder_for(self, prompt: str) -> Encoder:
        """Return the encoder for texts after this prompt, whose tokens it may have to leave out of the pooling."""
        if not prompt or not isinstance(self.encoder, PromptedTextEncoder):
            return self.encoder
        if prompt not in self._with_prompt:
            ids = self._tokens(pa.array([prompt], pa.large_string())).ids
            # The special token at the end belongs to the text, not to the prompt.
            is_end_special = len(ids) and int(ids[-1]) in self.encoder.tokenizer.all_special_ids
            self._with_prompt[prompt] = self.encoder.with_prompt_tokens(len(ids) - bool(is_end_special))
        return self._with_prompt[prompt]


def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())
