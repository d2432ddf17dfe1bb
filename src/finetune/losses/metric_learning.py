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
from finetune.losses.masks import connected_components
from finetune.losses.pml_rules import META_CLASSES, SQUARE, TWO_VIEWS


class MetricLearning(Loss):
    """A loss of pytorch-metric-learning over all items of the batch, with labels from the data.

    A loss with parameters for each class, and one with a memory, gets the class of each item, numbered from 0 in the
    order of `classes`, the class numbers of the data. For any other loss, items of the batch have the same label if a
    chain of known positives, or their class, connects them. VICReg gets anchors and positives as two views,
    ManifoldLoss meta classes, SmoothAP m items of each of m classes, for the largest possible m. Weights of rows are
    ignored.

    `miner` selects the pairs or triplets for the loss. `memory` is the number of embeddings of earlier batches that are
    compared too. `lr` is the learning rate of the loss's own parameters; None is that of the model.

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
        self.by_class = bool(classes) and (memory > 0 or _has_classes(loss))
        self.register_buffer("classes_C", torch.tensor(list(classes), dtype=torch.long), persistent=False)
        _register_tensors(loss)
        self.loss = _Memory.around(loss, width, memory, miner) if memory else loss
        if lr is not None and not list(loss.parameters()):
            raise CheckFailed([Problem("loss.lr", f"{self.name} has no parameters to train.", "Leave it out.")])

    def forward(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch."""
        for tensor in self.loss.buffers():
            tensor.detach_()  # a running histogram refers to the freed graph of the previous step
        # Without any pair a loss is a constant 0, but other processes wait for the gradient of all parameters.
        zero: Tensor = 0 * (emb_ND.sum() + sum(weight.sum() for weight in self.loss.parameters()))
        return zero + self._loss(emb_ND, batch)

    def check_width(self, width: int) -> None:
        """Check that the loss has no parameters or memory of another width."""
        if width != self.width and any(tensor.ndim > 1 for tensor in self.loss.state_dict().values()):
            what = f"{self.name} has parameters or a memory of width {self.width}, and the embeddings have {width}."
            raise CheckFailed([Problem("loss", what, "Do not use it for several widths.")])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def keep(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            if moved.dtype in (torch.bfloat16, torch.float16):
                return tensor.to(moved.device)
            return moved

        # The loss and its parameters stay in fp32, whatever the dtype of the encoder is.
        return super()._apply(keep, recurse)  # type: ignore[no-untyped-call]

    def _loss(self, emb_ND: Tensor, batch: Batch) -> Tensor:
        if self.name in TWO_VIEWS:
            return self._call(emb_ND[batch.anchor_B], ref_emb=emb_ND[batch.positive_B])
        label_N = self._labels(batch)
        if self.name in META_CLASSES:
            return self._call(emb_ND, indices_tuple=label_N % self.loss.K)
        if self.name in SQUARE:
            selected = _square(label_N)
            emb_ND, label_N = emb_ND[selected], label_N[selected]
        if self.miner is None:
            return self._call(emb_ND, label_N)
        return self._call(emb_ND, label_N, self.miner(emb_ND, label_N))

    def _call(self, *args: Any, **kwargs: Any) -> Tensor:
        value: Tensor = self.loss(*args, **kwargs)
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
            # Groups are the same in all batches; an item without a group gets a number of its own.
            assert batch.group_N is not None
            return torch.where(batch.group_N < 0, -1 - batch.items_N, batch.group_N)
        return connected_components(batch, len(batch.items_N))


class _Memory(CrossBatchMemory):  # type: ignore[misc]
    """The memory of the library, whose position is part of a checkpoint."""

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


def _has_classes(loss: nn.Module) -> bool:
    """Whether a loss is made for a number of classes, by the constructors of its class and base classes."""
    if type(loss).__name__ in META_CLASSES:
        return True
    for base in type(loss).__mro__:
        constructor = vars(base).get("__init__")
        if constructor is not None and "num_classes" in inspect.signature(constructor).parameters:
            return True
    return False


def _register_tensors(loss: nn.Module) -> None:
    """Register plain tensors of a loss (a running histogram) as buffers: those are saved, and moved to devices."""
    for module in loss.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                delattr(module, name)
                module.register_buffer(name, value)


def _square(label_N: Tensor) -> Tensor:
    """Return the indices of m items of each of m labels, label by label, for the largest possible m, `(m * m,)`."""
    order_N = label_N.argsort(stable=True)
    count_C = torch.unique(label_N, return_counts=True)[1]
    start_C = count_C.cumsum(0) - count_C
    sizes_C, by_size_C = count_C.sort(descending=True, stable=True)
    m = int((sizes_C >= torch.arange(1, len(sizes_C) + 1, device=sizes_C.device)).sum())
    first_m = start_C[by_size_C[:m]].sort().values
    return order_N[(first_m.unsqueeze(1) + torch.arange(m, device=first_m.device)).flatten()]
