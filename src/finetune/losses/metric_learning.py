"""The losses and miners of pytorch-metric-learning, by their own names.

Shapes: N distinct items of the batch, B relations, C classes, D width, m classes of m items.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pytorch_metric_learning.losses import CrossBatchMemory
from torch import Tensor, nn

from finetune.config.types import CountFromZero, Positive, PositiveInt
from finetune.data.batching.batch import Batch
from finetune.errors import CheckFailed, Problem
from finetune.losses.loss import Loss
from finetune.losses.masks import connected
from finetune.losses.pml_rules import META_CLASSES, SQUARE, TWO_VIEWS


class MetricLearning(Loss):
    """A loss of pytorch-metric-learning over all items of the batch, each with the label that the data gives it.

    A loss that keeps something for each class, and one with a memory, is given the class of each item, numbered from 0
    in the order of `classes`, the class numbers of the data. For any other, items have the same label if they hang
    together by pairs that are known to be right, or by their class, within the batch. VICReg is given anchors and
    positives as two views, ManifoldLoss meta classes, SmoothAP as many whole classes as are as large as they are many.
    Weights of rows do not count.

    `miner` chooses the pairs or triplets that the loss sees. `memory` is how many embeddings of earlier batches are
    compared with too. `lr` is the learning rate of the loss's own weights; None is that of the others.

    Sources: https://kevinmusgrave.github.io/pytorch-metric-learning/losses; for the memory Wang et al. 2020,
    https://arxiv.org/abs/1912.06798.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("pairs",)
    loss: Any
    classes_C: Tensor

    def __init__(
        self,
        loss: nn.Module,
        miner: nn.Module | None,
        classes: Sequence[CountFromZero],
        width: PositiveInt,
        memory: CountFromZero = 0,
        lr: Positive | None = None,
    ) -> None:
        super().__init__()
        self.lr = lr
        self.name = type(loss).__name__
        self.width = width
        self.miner = None if memory else miner
        self.by_class = bool(classes) and (memory > 0 or _knows_classes(loss))
        self.register_buffer("classes_C", torch.tensor(list(classes), dtype=torch.long), persistent=False)
        _keep_tensors(loss)
        self.loss = _Memory.around(loss, width, memory, miner) if memory else loss
        if lr is not None and not any(True for _ in loss.parameters()):
            raise CheckFailed([Problem("loss.lr", f"{self.name} has no weights to learn.", "Leave it out.")])

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        for tensor in self.loss.buffers():
            tensor.detach_()  # a running histogram hangs on the graph of the step before, which is gone
        # Without any pair a loss is a plain 0. It still hangs on all there is: other processes wait for the gradients.
        nothing: Tensor = 0 * (emb_ND.sum() + sum(weight.sum() for weight in self.loss.parameters()))
        return nothing + self._loss(emb_ND, batch)

    def fit_width(self, width: int) -> None:
        """Refuse embeddings of another width than the loss's own weights or its memory."""
        if width != self.width and any(tensor.ndim > 1 for tensor in self.loss.state_dict().values()):
            what = f"{self.name} has weights or a memory of width {self.width}, and is to work on {width}."
            raise CheckFailed([Problem("loss", what, "It cannot be used over several widths.")])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def keep(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.bfloat16, torch.float16) else moved

        # The loss is computed in fp32 whatever the encoder is in, and so are its weights.
        return super()._apply(keep, recurse)  # type: ignore[no-untyped-call]

    def _loss(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        if self.name in TWO_VIEWS:
            return self._call(emb_ND[batch.anchor_B], ref_emb=emb_ND[batch.positive_B])
        label_N = self._labels(batch)
        if self.name in META_CLASSES:
            return self._call(emb_ND, indices_tuple=label_N % self.loss.K)
        if self.name in SQUARE:
            some = _square(label_N)
            emb_ND, label_N = emb_ND[some], label_N[some]
        if self.miner is None:
            return self._call(emb_ND, label_N)
        return self._call(emb_ND, label_N, self.miner(emb_ND, label_N))

    def _call(self, *given: Any, **more: Any) -> Tensor:
        value: Tensor = self.loss(*given, **more)
        return value

    def _labels(self, batch: Batch) -> Tensor:
        """Return the label of each item, `(N,)`."""
        if self.by_class:
            assert batch.label_B is not None
            label_N = batch.label_B.new_zeros(len(batch.items_N))
            label_N[batch.positive_B] = batch.label_B
            label_N[batch.anchor_B] = batch.label_B
            return torch.searchsorted(self.classes_C, label_N)
        if isinstance(self.loss, _Memory):
            # Chains that hold over batches; items in none are alone, each under a number of its own.
            assert batch.group_N is not None
            return torch.where(batch.group_N < 0, -1 - batch.items_N, batch.group_N)
        return connected(batch, len(batch.items_N))


class _Memory(CrossBatchMemory):  # type: ignore[misc]
    """The library's memory, which also knows after a resume how full it is."""

    @classmethod
    def around(cls, loss: nn.Module, width: int, size: int, miner: nn.Module | None) -> _Memory:
        if type(loss).__name__ not in cls.supported_losses():
            what = f"{type(loss).__name__} cannot use a memory of earlier batches."
            raise CheckFailed([Problem("loss.memory", what, f"These can: {', '.join(cls.supported_losses())}.")])
        return cls(loss, width, size, miner=miner)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.queue_idx, int(self.has_been_filled)])

    def set_extra_state(self, state: Tensor) -> None:
        self.queue_idx, self.has_been_filled = int(state[0]), bool(state[1])


def _knows_classes(loss: nn.Module) -> bool:
    own = (vars(kind)["__init__"] for kind in type(loss).__mro__ if "__init__" in vars(kind))
    takes = any("num_classes" in inspect.signature(each).parameters for each in own)
    return takes or type(loss).__name__ in META_CLASSES


def _keep_tensors(loss: nn.Module) -> None:
    """Make buffers of tensors that a loss only holds (a running histogram): checkpoints keep them, devices get them."""
    for module in loss.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                delattr(module, name)
                module.register_buffer(name, value)


def _square(label_N: Tensor) -> Tensor:
    """Return the places of m items of each of m labels, label after label, for the largest such m, `(m * m,)`."""
    order_N = label_N.argsort(stable=True)
    count_C = torch.unique(label_N, return_counts=True)[1]
    start_C = count_C.cumsum(0) - count_C
    sizes_C, by_size_C = count_C.sort(descending=True, stable=True)
    m = int((sizes_C >= torch.arange(1, len(sizes_C) + 1, device=sizes_C.device)).sum())
    first_m = start_C[by_size_C[:m]].sort().values
    return order_N[(first_m.unsqueeze(1) + torch.arange(m, device=first_m.device)).flatten()]
