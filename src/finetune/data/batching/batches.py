"""Batches: some relations of an epoch, each distinct item once; resumable at any batch.

B relations and N items of a batch, D of them distinct, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.batching.batch import Batch
from finetune.data.batching.mixing import BatchSettings, Epochs
from finetune.data.batching.non_text import NonText
from finetune.data.batching.pair_collator import Pairing
from finetune.data.batching.sampling import pairs_within_classes
from finetune.data.items import ABSENT
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.threads import map_in_threads
from finetune.data.tokens.token_store import Tokens


class Batches:
    """An epoch of training batches, to be iterated again for every epoch.

    The rows of each batch depend on `seed` and the epoch alone (`mixing.py`). `state_dict` is the position of the next
    batch; a loader with that state resumes there. `non_text` reads the items that are not text, `pairing` joins pairs
    of texts for an encoder that scores them.
    """

    def __init__(
        self,
        relations: Relations,
        tokens: Tokens,
        known: KnownPositives,
        settings: BatchSettings,
        seed: int,
        non_text: NonText | None = None,
        pairing: Pairing | None = None,
    ) -> None:
        self.relations = relations
        self._data_relations, self._data_known = relations, known
        self._relabelled = np.empty((0, 2), np.int64)
        self.tokens = tokens
        self.non_text = non_text
        self.pairing = pairing
        self.teacher: npt.NDArray[np.float16] | None = None  # a teacher's embeddings, (items, dimensions)
        self.seed = seed
        self.known = known
        self.epochs = Epochs(relations, settings, seed)
        self.epoch = 0
        self.position = 0  # batches of this epoch that were yielded

    def set_mined(self, negatives_Bn: Ints, relabelled_P2: Ints) -> None:
        """Use these mined negatives of each row, `(B, n)`, -1 for none, in addition to those of the data.

        `relabelled_P2` are pairs of an anchor and another positive of it. In each epoch a row has one of the positives
        of its anchor, in turn, so that rows and order of the batches stay the same.
        """
        self.relations = self._data_relations.with_negatives(negatives_Bn)
        self._relabelled = relabelled_P2[np.lexsort(relabelled_P2.T[::-1])]
        self.known = self._data_known.with_pairs(*relabelled_P2.T)

    def _with_turns(self, rows: Ints) -> Relations:
        """Return these relations, each with the positive whose turn it is in this epoch."""
        relations = self.relations.take(rows)
        first, last = (np.searchsorted(self._relabelled[:, 0], relations.anchor, side) for side in ("left", "right"))
        turn = (self.epoch + rows) % (last - first + 1)
        others = np.flatnonzero(turn)  # 0 is the positive of the row itself
        if not len(others):
            return relations
        positive = relations.positive.copy()
        positive[others] = self._relabelled[(first + turn - 1)[others], 1]
        return replace(relations, positive=positive)

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Batch]:
        # Runs at the first `next`, not at `iter`: Lightning makes the iterator first and sets the epoch later.
        if self.position >= len(self):
            self.set_epoch(self.epoch + 1)
        positions = range(self.position, len(self))
        batches: Iterator[tuple[Relations, Batch]] = map(self._batch_and_relations, positions)
        if self.non_text is not None:
            # Images take long to decode: a thread makes the next batch while this one is trained on.
            batches = map_in_threads(self._batch_and_relations, positions, threads=1)
        for position, (relations, batch) in zip(positions, batches, strict=True):
            if relations is not self.relations:  # a thread made it before there were new negatives
                batch = self.batch_at(position)  # noqa: PLW2901
            # Counted before the yield: the next batch is requested only after the step, and a checkpoint at the end
            # of the step must not repeat this batch. Lightning reads a sized loader without prefetching.
            self.position = position + 1
            yield batch

    def _batch_and_relations(self, position: int) -> tuple[Relations, Batch]:
        relations = self.relations
        return relations, self.batch_at(position)

    def batch_at(self, position: int) -> Batch:
        """Return the batch at a position of this epoch."""
        random = None
        if self.non_text is not None:
            random = np.random.default_rng((self.seed, self.epoch, position))
        batch = self.batch(*self.epochs.batch(self.epoch, position), random)
        if self.pairing is None:
            return batch
        return self.pairing.batch(batch, self.tokens)

    def batch(self, rows: Ints, source: int | None = None, random: np.random.Generator | None = None) -> Batch:
        """Return the batch of these relations; `random` augments the items that are not text."""
        relations = _with_class_pairs(self._with_turns(rows))
        table = relations.columns()
        distinct_D, indices = np.unique(table, return_inverse=True)
        indices = indices.reshape(table.shape)
        if len(distinct_D) and distinct_D[0] == ABSENT:
            distinct_D, indices = distinct_D[1:], indices - 1  # an absent item gets index -1
        known_E2, group_D = self.known.pairs_within(distinct_D), self.known.groups_within(distinct_D)
        uses_D = np.bincount(indices[indices >= 0], minlength=len(distinct_D))
        copies_D = uses_D
        if self.epochs.settings.encode_once:
            copies_D = np.ones_like(uses_D)
        indices, known_E2 = _index_copies(indices, known_E2, copies_D)
        items_N = np.repeat(distinct_D, copies_D)
        texts = int(np.searchsorted(items_N, len(self.tokens)))
        ids_T, lengths_N = self.tokens.take(items_N[:texts])
        group_N = other_M = teacher_ND = source_B = None
        if group_D is not None:
            group_N = np.repeat(group_D, copies_D)
        if self.non_text is not None and texts < len(items_N):
            other_M = self.non_text.take(items_N[texts:], random)
        if self.teacher is not None:
            teacher_ND = self.teacher[items_N].astype(np.float32)
        if source is None:
            source_B = relations.source
        return Batch(
            items_N=torch.from_numpy(items_N),
            ids_T=torch.from_numpy(ids_T.astype(np.int64)),
            lengths_N=torch.from_numpy(lengths_N),
            anchor_B=torch.from_numpy(indices[:, 0].copy()),
            positive_B=torch.from_numpy(indices[:, 1].copy()),
            negatives_Bn=torch.from_numpy(indices[:, 2:].copy()),
            known_E2=torch.from_numpy(known_E2),
            lengths_cpu=lengths_N.tolist(),
            uses=int(uses_D.sum()),
            group_N=_tensor(group_N),
            score_Bk=_tensor(relations.score),
            label_B=_tensor(relations.label),
            weight_B=_tensor(relations.weight),
            source=source,
            source_B=_tensor(source_B),
            teacher_ND=_tensor(teacher_ND),
            other_M=_tensor(other_M),
        )

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch`; does nothing if it is the current one."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    @property
    def sampler(self) -> Batches:
        """Itself: Lightning calls `set_epoch` on a loader's `sampler` as each epoch begins."""
        return self

    def state_dict(self) -> dict[str, int]:
        """Return where to resume: the epoch, and how many of its batches were yielded."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume at `state`."""
        self.epoch, self.position = state["epoch"], state["position"]


def _with_class_pairs(relations: Relations) -> Relations:
    """Return the relations of a batch, with labelled items as pairs within their class."""
    if relations.label is None or (relations.positive != ABSENT).all():
        return relations
    labelled = np.flatnonzero((relations.positive == ABSENT) & (relations.label != ABSENT))
    rows, positive = pairs_within_classes(relations.label[labelled], relations.anchor[labelled])
    all_positive = relations.positive.copy()
    all_positive[labelled[rows]] = positive
    # In the order of the rows, without those whose class has no other item in this batch.
    return replace(relations, positive=all_positive).take(np.flatnonzero(all_positive != ABSENT))


def _index_copies(indices: Ints, known_E2: Ints, copies_D: Ints) -> tuple[Ints, Ints]:
    """Return indices and known pairs of D items as those of their copies: each use of an item has its own copy.

    Copies of one item are known positives of each other, and of all copies of its known positives.
    """
    if (copies_D == 1).all():
        return indices, known_E2
    firsts_D = np.cumsum(copies_D) - copies_D
    used = indices[indices >= 0]
    order = np.argsort(used, kind="stable")
    copy = np.empty_like(used)
    copy[order] = np.arange(len(used))  # the copies of an item are adjacent, in the order of their uses
    copy_indices = indices.copy()
    copy_indices[indices >= 0] = copy
    several = np.flatnonzero(copies_D > 1)
    pairs_E2 = np.concatenate([known_E2, np.column_stack([several, several])])
    left, right = pairs_E2.T
    pair = np.repeat(np.arange(len(pairs_E2)), copies_D[left])
    left_copies = flat_ranges(firsts_D[left], copies_D[left])
    right_counts = copies_D[right[pair]]
    right_copies = flat_ranges(firsts_D[right[pair]], right_counts)
    return copy_indices, np.column_stack([np.repeat(left_copies, right_counts), right_copies])


def _tensor(values: Any) -> Tensor | None:
    if values is None:
        return None
    return torch.from_numpy(values)
