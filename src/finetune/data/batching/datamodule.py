"""From a dataset to the batches Lightning iterates."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning import LightningDataModule

from finetune.console import Bar, say
from finetune.data.batching.batches import Batches
from finetune.data.batching.mixing import BatchSettings
from finetune.data.batching.non_text import NonText, Prepare
from finetune.data.batching.pair_collator import Pairing
from finetune.data.cache.store import Cache
from finetune.data.dataset import Dataset
from finetune.data.tokens.token_store import Tokens
from finetune.errors import FinetuneError


class RelationDataModule(LightningDataModule):
    """Tokenises every distinct text once, or finds that in the cache, and feeds batches of relations.

    `tokenizer` is the encoder's, `None` if it reads no texts; `prepare` is how it takes items that are none,
    `pairing` how it joins two texts if it scores pairs.

    Raises:
        ModelError: the tokenizer is not a fast one.
        FinetuneError: no batch can be made, since no class has two members left.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: Any,
        settings: BatchSettings,
        max_length: int,
        seed: int,
        cache: bool = True,
        prepare: Prepare | None = None,
        pairing: Pairing | None = None,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        items = dataset.items
        self.tokens = self._tokenised(tokenizer, max_length, cache) if len(items.texts) else Tokens.of_nothing()
        self.others = NonText(items, prepare) if prepare and len(items) > len(items.texts) else None
        self._batches = Batches(dataset.train, self.tokens, dataset.known, settings, seed, self.others, pairing)
        if not len(self._batches):
            what = "No class has two members left to train on."
            raise FinetuneError(what, "Hold out fewer: lower data.validation_fraction.")
        if settings.unique and (left_out := self._batches.epochs.left_out()):
            rows = f"{left_out:,} of {len(dataset.train):,} pairs"
            say(
                f"data.unique: {rows} are left to other epochs: one of their texts is in every batch with room already."
            )

    def _tokenised(self, tokenizer: Any, max_length: int, cache: bool) -> Tokens:
        items = self.dataset.items
        with ExitStack() as stack:
            bar: Bar | None = None

            def show(done: int, total: int) -> None:
                nonlocal bar
                if bar is None:  # there is none for tokens that are read from the cache
                    bar = stack.enter_context(Bar("tokenising", total, "texts"))
                bar.update(done)

            tokens = Tokens.cached(items, tokenizer, max_length, Cache() if cache else None, show)
        if note := tokens.note(items):
            say(note)
        return tokens

    def teach(self, teacher: npt.NDArray[np.float16]) -> None:
        """Put what another model makes of each item, `(items, D)`, into the batches."""
        self._batches.teacher = teacher

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of one pass over the training relations."""
        return len(self._batches)

    def train_dataloader(self) -> Batches:
        """Return the loader; it carries its own position, so that a resumed run goes on with the next batch."""
        return self._batches
