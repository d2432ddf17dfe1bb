"""The items of a data set, prepared for one encoder: what the engine needs to embed them."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.data.batching.non_text import NonText
from finetune.data.cache.store import Cache
from finetune.data.items import Items
from finetune.data.tokens.token_store import Tokens
from finetune.models.encoder import Encoder


@dataclass(frozen=True)
class ItemSource:
    """`items`, the token ids of those that are texts, and a loader of the others; None if all are texts."""

    items: Items
    tokens: Tokens
    non_text: NonText | None

    @classmethod
    def prepare(cls, items: Items, encoder: Encoder, max_length: int, cache: bool) -> ItemSource:
        """Tokenize the texts to at most `max_length` tokens, or read their tokens from the cache if `cache` is set."""
        tokens = Tokens.of_nothing()
        if len(items.texts):
            store = Cache() if cache else None
            tokens = Tokens.cached(items, encoder.tokenizer, max_length, store)
        non_text = None
        if len(items) > len(items.texts):
            non_text = NonText(items, encoder.prepare)
        return cls(items, tokens, non_text)
