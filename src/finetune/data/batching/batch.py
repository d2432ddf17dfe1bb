"""One batch of training data.

B relations and N items of a batch, M of them not text, T tokens, n negatives of a row, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass  # not frozen: Lightning's half-precision plugins rebuild a dataclass field by field
class Batch:
    """The input of one training step: N distinct items with their tokens, and B relations between them.

    `items_N` item numbers, sorted · `ids_T` concatenated token ids of the items · `lengths_N` token count of each ·
    `anchor_B`, `positive_B`, `negatives_Bn` indices into the N items, -1 for no negative · `known_E2` pairs of indices
    that are known positives of each other, both directions. All int64. `lengths_cpu` is `lengths_N` as a list that
    stays on the CPU, so that planning micro-batches does not synchronize with a device · `uses` how often relations
    use an item: the number of encoded items without encoding each item once.

    None where not available: `group_N` items with the same number are all positives of each other · `score_Bk` scores
    of the positive and of each negative, NaN for none (k = 1 + n) · `label_B` the class of each row · `weight_B` the
    weight of each row. With several sources, `source` is the source of all rows, or `source_B` the one of each row.

    Texts come first, and tokens and lengths are theirs; `other_M` is the encoder's input for items that are not text,
    `(M, ...)` float32. Where pairs of texts are scored, the items are these pairs (`pair_collator.py`), and `pair_Bk`
    is the index of each document's pair, -1 for none. `teacher_ND` are another model's embeddings of the items.
    """

    items_N: Tensor
    ids_T: Tensor
    lengths_N: Tensor
    anchor_B: Tensor
    positive_B: Tensor
    negatives_Bn: Tensor
    known_E2: Tensor
    lengths_cpu: list[int]
    uses: int
    group_N: Tensor | None = None
    score_Bk: Tensor | None = None
    label_B: Tensor | None = None
    weight_B: Tensor | None = None
    source: int | None = None
    source_B: Tensor | None = None
    other_M: Tensor | None = None
    pair_Bk: Tensor | None = None
    teacher_ND: Tensor | None = None

    def __len__(self) -> int:
        return len(self.anchor_B)

    def to(self, device: torch.device | str, **kwargs: Any) -> Batch:
        """Return the batch with its tensors on `device`; further arguments go to `Tensor.to`."""
        device = torch.device(device)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: copy_to(value, device, **kwargs) for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**{**values, **moved})


def copy_to(tensor: Tensor, device: torch.device, **kwargs: Any) -> Tensor:
    """Return a tensor on `device`; a copy from the CPU to a GPU does not wait for the GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A copy from pageable memory would wait for all work queued on the device.
        return tensor.pin_memory().to(device, **kwargs | {"non_blocking": True})
    return tensor.to(device, **kwargs)
