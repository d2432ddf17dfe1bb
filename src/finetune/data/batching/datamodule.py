"""From a dataset to the batches that Lightning iterates over."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning import LightningDataModule

from finetune.console import Bar, say
from finetune.data.arrays import Ints
from finetune.data.batching.batches import Batches
from finetune.data.batching.mixing import BatchSettings
from finetune.data.batching.non_text import NonText, Prepare
from finetune.data.batching.pair_collator import Pairing
from finetune.data.cache.store import Cache
from finetune.data.dataset import Dataset
from finetune.data.tokens.token_store import Tokens
from finetune.errors import FinetuneError


class RelationDataModule(LightningDataModule):
    """Tokenizes every distinct text once, or loads the tokens from the cache, and provides batches of relations.

    `tokenizer` is the encoder's, `None` if it reads no text; `prepare` is how it reads items that are not text,
    `pairing` how it joins two texts if it scores pairs.

    Raises:
        ModelError: the tokenizer is not a fast one.
        FinetuneError: there is no batch, since no class has two members left.
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
        self.tokens = Tokens.of_nothing()
        if len(items.texts):
            self.tokens = self._tokenize(tokenizer, max_length, cache)
        self.non_text: NonText | None = None
        if prepare is not None and len(items) > len(items.texts):
            self.non_text = NonText(items, prepare)
        self._batches = Batches(dataset.train, self.tokens, dataset.known, settings, seed, self.non_text, pairing)
        if not len(self._batches):
            what = "No class has two members left to train on."
            raise FinetuneError(what, "Hold out fewer: lower data.validation_fraction.")
        if settings.unique:
            self._say_left_out(self._batches.epochs.left_out())

    def _say_left_out(self, left_out: int) -> None:
        if left_out:
            rows = f"{left_out:,} of {len(self.dataset.train):,} pairs"
            say(
                f"data.unique: {rows} are left to other epochs: one of their texts is in every batch with room already."
            )

    def _tokenize(self, tokenizer: Any, max_length: int, cache: bool) -> Tokens:
        items = self.dataset.items
        with ExitStack() as stack:
            bar: Bar | None = None

            def show(done: int, total: int) -> None:
                nonlocal bar
                if bar is None:  # tokens that are read from the cache show no bar
                    bar = stack.enter_context(Bar("tokenizing", total, "texts"))
                bar.update(done)

            tokens = Tokens.cached(items, tokenizer, max_length, Cache() if cache else None, show)
        note = tokens.note(items)
        if note is not None:
            say(note)
        return tokens

    def teach(self, teacher: npt.NDArray[np.float16]) -> None:
        """Add a teacher's embeddings of all items, `(items, dimensions)`, to the batches."""
        self._batches.teacher = teacher

    def set_mined(self, negatives_Bn: Ints, relabelled_P2: Ints) -> None:
        """Train with these negatives of each training row, `(B, n)`, -1 for none, in addition to those of the data.

        `relabelled_P2` are pairs of an anchor and another positive of it.
        """
        self._batches.set_mined(negatives_Bn, relabelled_P2)

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of one pass over the training relations."""
        return len(self._batches)

    def train_dataloader(self) -> Batches:
        """Return the loader; it stores its own position, so that a resumed run continues with the next batch."""
        return self._batches
