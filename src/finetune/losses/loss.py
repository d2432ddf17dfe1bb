"""What every loss is: a module over the embeddings of a batch's items and the relations between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from finetune.data.batching.batch import Batch


class Loss(nn.Module):
    """Embeddings `(N, D)` in fp32 and a `Batch` in, one number out.

    `learns_from` says what the data must have, one of these at least; it is read from the source text before a run:

    - `pairs`: which item is right for which (pairs, triplets, several positives, judgments, lists, labelled items)
    - `negatives`: wrong answers beside the right ones of a row
    - `scores`: a number for each pair
    - `lists`: a number for each of several documents of a row
    - `labels`: a class for each item

    Empty is nothing: it looks at the embeddings alone, or at what other losses say, which need what they need.
    `lr` is a learning rate for its own weights; None is that of the run. `teacher` is a text encoder whose embeddings
    of the batch's items it wants beside the model's own (`Batch.teacher_ND`). `layers` are those whose embeddings it
    wants beside the last one's: `(N, L, D)`, the last one last.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("pairs",)
    lr: float | None = None
    teacher: str | None = None
    layers: Sequence[int] = ()

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss."""
        raise NotImplementedError

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the denominator of the mean that the loss of this batch is: its rows, or the sum of their weights.

        The batches of one optimizer step are combined in proportion to it (`trainer.accumulate_grad_batches`).
        """
        return row_weight(batch)

    def fit_width(self, width: int) -> None:
        """Be told the width D of the embeddings, once, before the optimizer is made.

        Raises:
            CheckFailed: the loss cannot work with it.
        """


class SharedLoss(Loss):
    """A loss that several processes share out: each computes its part, and the parts' sum is the loss."""

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the part of process `rank` of `world`."""
        raise NotImplementedError


def row_weight(batch: Batch) -> float | Tensor:
    """Return the number of rows of a batch, or the sum of their weights where the data has weights."""
    return len(batch) if batch.weight_B is None else batch.weight_B.sum()


def total_weight(loss: nn.Module, batch: Batch) -> float | Tensor:
    """Return the `total_weight` of any loss; for a plain module, which does not define it, that of the rows."""
    return loss.total_weight(batch) if isinstance(loss, Loss) else row_weight(batch)


def local_loss(loss: nn.Module, emb_ND: Tensor, batch: Batch, rank: int, world: int) -> Tensor:
    """Return what process `rank` of `world` adds to the loss of the batch: the processes' sum is the loss.

    Of a loss that cannot be shared out every process computes the whole, and adds its part of it.
    """
    value: Tensor
    if isinstance(loss, SharedLoss):
        value = loss(emb_ND, batch, rank, world)
        return value
    value = loss(emb_ND, batch)
    return value / world


def share_scores(loss: nn.Module, score_N1: Tensor, batch: Batch, rank: int, world: int) -> Tensor:
    """Return the same of scores that pairs of texts were given, one for each pair of the batch."""
    assert batch.pair_Bk is not None
    score_Bk = score_N1[:, 0][batch.pair_Bk.clamp(min=0)]
    value: Tensor = loss.of_scores(score_Bk, batch, rank, world)  # type: ignore[operator]
    return value


def tell_width(loss: nn.Module, width: int) -> None:
    """Tell a loss the width of the embeddings; a plain module does not ask."""
    if isinstance(loss, Loss):
        loss.fit_width(width)


def own_rates(losses: nn.Module) -> dict[nn.Parameter, float]:
    """Return the learning rate of each weight that has one of its own."""
    rates = {}
    for loss in losses.modules():
        if isinstance(loss, Loss) and loss.lr is not None:
            rates.update(dict.fromkeys(loss.parameters(), loss.lr))
    return rates
