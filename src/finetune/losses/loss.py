"""The base class of losses: a module over the embeddings of a batch's items and the relations between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from finetune.data.batching.batch import Batch


class Loss(nn.Module):
    """Embeddings `(N, D)` in fp32 and a `Batch` in, a scalar out.

    `learns_from` lists what the data must have, at least one of these; it is read from the source text before a run:

    - `pairs`: positives of items (pairs, triplets, several positives, judgments, lists, labelled items)
    - `negatives`: negatives next to the positives of a row
    - `scores`: a score for each pair
    - `lists`: a score for each of several documents of a row
    - `labels`: a class for each item

    Empty means no requirement: it uses the embeddings alone, or other losses, which have requirements of their own.
    `lr` is a learning rate for its own parameters; None is that of the run. `teacher` is a text encoder whose
    embeddings of the batch's items it needs in addition to the model's own (`Batch.teacher_ND`). `layers` are those
    whose embeddings it needs in addition to the last layer's: `(N, L, D)`, those of the last layer last.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("pairs",)
    lr: float | None = None
    teacher: str | None = None
    layers: Sequence[int] = ()

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss."""
        raise NotImplementedError

    def total_weight(self, batch: Batch) -> float | Tensor:
        """Return the denominator of the mean over this batch: its number of rows, or the sum of their weights.

        The batches of one optimizer step are combined in proportion to it (`trainer.accumulate_grad_batches`).
        """
        return total_row_weight(batch)

    def check_width(self, width: int) -> None:
        """Check the width D of the embeddings; called once, before the optimizer is made.

        Raises:
            CheckFailed: the loss does not support it.
        """


class SharedLoss(Loss):
    """A loss that several processes share: each computes a part, and the sum of the parts is the loss."""

    def forward(self, emb_ND: Tensor, batch: Batch, rank: int = 0, world: int = 1) -> Tensor:
        """Return the part of process `rank` of `world`."""
        raise NotImplementedError


def total_row_weight(batch: Batch) -> float | Tensor:
    """Return the number of rows of a batch, or the sum of their weights if the data has weights."""
    if batch.weight_B is None:
        return len(batch)
    return batch.weight_B.sum()


def total_weight(loss: nn.Module, batch: Batch) -> float | Tensor:
    """Return `loss.total_weight(batch)`; for a plain module, which does not define it, that of the rows."""
    if isinstance(loss, Loss):
        return loss.total_weight(batch)
    return total_row_weight(batch)


def local_loss(loss: nn.Module, emb_ND: Tensor, batch: Batch, rank: int, world: int) -> Tensor:
    """Return the part of process `rank` of `world`; the sum over the processes is the loss of the batch.

    If a loss cannot be shared, every process computes all of it and returns 1 / `world` of it.
    """
    value: Tensor
    if isinstance(loss, SharedLoss):
        value = loss(emb_ND, batch, rank, world)
        return value
    value = loss(emb_ND, batch)
    return value / world


def local_loss_from_scores(loss: nn.Module, score_N1: Tensor, batch: Batch, rank: int, world: int) -> Tensor:
    """Return the same as `local_loss` for a model that scores pairs of texts; one score for each pair of the batch."""
    assert batch.pair_Bk is not None
    score_Bk = score_N1[:, 0][batch.pair_Bk.clamp(min=0)]
    value: Tensor = loss.from_scores(score_Bk, batch, rank, world)  # type: ignore[operator]
    return value


def check_width(loss: nn.Module, width: int) -> None:
    """Call `loss.check_width(width)`; a plain module, which does not define it, supports any width.

    Raises:
        CheckFailed: the loss does not support it.
    """
    if isinstance(loss, Loss):
        loss.check_width(width)


def own_learning_rates(losses: nn.Module) -> dict[nn.Parameter, float]:
    """Return the learning rate of each parameter of a loss that sets `lr`."""
    rates: dict[nn.Parameter, float] = {}
    for loss in losses.modules():
        if isinstance(loss, Loss) and loss.lr is not None:
            rates.update(dict.fromkeys(loss.parameters(), loss.lr))
    return rates
