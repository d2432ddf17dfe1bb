"""What every loss is: a module over the embeddings of a batch's items and the relations between them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from finetune.data.batches import Batch


class Loss(nn.Module):
    """Embeddings `(N, D)` in fp32 and a `Batch` in, one number out.

    `learns_from` says what the data must have, one of these at least; it is read from the source text before a run, so
    it is written out in every class that differs from its base:

    - `pairs`: which item is right for which (pairs, triplets, several positives, judgments, lists, labelled items)
    - `negatives`: wrong answers beside the right ones of a row
    - `scores`: a number for each pair
    - `lists`: a number for each of several documents of a row
    - `anything`: it looks at the embeddings alone
    """

    learns_from: ClassVar[tuple[str, ...]] = ("pairs",)

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss."""
        raise NotImplementedError

    def fit_width(self, width: int) -> None:
        """Be told the width D of the embeddings, once, before the optimizer is made.

        Raises:
            CheckFailed: the loss cannot work with it.
        """
