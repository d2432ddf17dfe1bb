"""Batches: some relations of an epoch, each distinct item once; resumable at any batch.

B relations and N items of a batch, M of them no texts, T tokens, n negatives of a row, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from finetune.data.tokens.token_store import Tokens


class Batches:
    """An epoch of training batches, to be iterated again for every epoch.

    Which rows stand together depends on `seed` and the epoch alone (`mixing.py`). `state_dict` is where the next batch
    to be handed out stands; a loader with that state goes on there.
    """

    def __init__(
        self,
        relations: Relations,
        tokens: Tokens,
        known: KnownPositives,
        settings: BatchSettings,
        seed: int,
        others: NonText | None = None,
        pairing: Pairing | None = None,
    ) -> None:
        self.relations = relations
        self.tokens = tokens
        self.others = others
        self.pairing = pairing
        self.teacher: npt.NDArray[np.float16] | None = None  # what another model makes of each item, (items, D)
        self.seed = seed
        self.known = known
        self.epochs = Epochs(relations, settings, seed)
        self.epoch = 0
        self.position = 0  # batches of this epoch that were handed out

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Batch]:
        # Runs at the first `next`, not at `iter`: Lightning makes the iterator first and sets the epoch later.
        if self.position >= len(self):
            self.set_epoch(self.epoch + 1)
        positions = range(self.position, len(self))
        # Images take their time to be decoded: the next batch is made while this one is learnt from.
        made = map(self._at, positions) if self.others is None else prefetch(self._at, positions)
        for position, batch in zip(positions, made, strict=True):
            # Counted before it is handed out: the next batch is asked for only after the step, and a checkpoint at
            # the end of the step must not name this batch again. Lightning reads a sized loader without prefetching.
            self.position = position + 1
            yield batch

    def _at(self, position: int) -> Batch:
        random = np.random.default_rng((self.seed, self.epoch, position)) if self.others else None
        batch = self.batch(*self.epochs.batch(self.epoch, position), random)
        return batch if self.pairing is None else self.pairing.batch(batch, self.tokens)

    def batch(self, rows: Ints, source: int | None = None, random: np.random.Generator | None = None) -> Batch:
        """Return the batch of these relations; `random` is for what items that are no texts are looked at with."""
        relations = _paired(self.relations.take(rows))
        table = relations.columns()
        distinct_D, places = np.unique(table, return_inverse=True)
        places = places.reshape(table.shape)
        if absent := int(len(distinct_D) > 0 and distinct_D[0] == ABSENT):
            distinct_D, places = distinct_D[1:], places - absent  # what was absent becomes place -1
        known_E2, group_D = self.known.pairs_within(distinct_D), self.known.groups_within(distinct_D)
        uses_D = np.bincount(places[places >= 0], minlength=len(distinct_D))
        copies_D = np.ones_like(uses_D) if self.epochs.settings.encode_once else uses_D
        places, known_E2 = _in_copies(places, known_E2, copies_D)
        items_N = np.repeat(distinct_D, copies_D)
        texts = int(np.searchsorted(items_N, len(self.tokens)))
        ids_T, lengths_N = self.tokens.take(items_N[:texts])
        others = self.others if texts < len(items_N) else None
        return Batch(
            items_N=torch.from_numpy(items_N),
            ids_T=torch.from_numpy(ids_T.astype(np.int64)),
            lengths_N=torch.from_numpy(lengths_N),
            anchor_B=torch.from_numpy(places[:, 0].copy()),
            positive_B=torch.from_numpy(places[:, 1].copy()),
            negatives_Bn=torch.from_numpy(places[:, 2:].copy()),
            known_E2=torch.from_numpy(known_E2),
            lengths_cpu=lengths_N.tolist(),
            uses=int(uses_D.sum()),
            group_N=None if group_D is None else torch.from_numpy(np.repeat(group_D, copies_D)),
            score_Bk=_tensor(relations.score),
            label_B=_tensor(relations.label),
            weight_B=_tensor(relations.weight),
            source=source,
            source_B=_tensor(relations.source) if source is None else None,
            teacher_ND=None if self.teacher is None else torch.from_numpy(self.teacher[items_N].astype(np.float32)),
            other_M=_tensor(others and others.take(items_N[texts:], random)),
        )

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`, unless it is the one that is under way."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    @property
    def sampler(self) -> Batches:
        """Itself: Lightning calls `set_epoch` on a loader's `sampler` as each epoch begins."""
        return self

    def state_dict(self) -> dict[str, int]:
        """Return where to go on: the epoch, and how many of its batches were handed out."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` says."""
        self.epoch, self.position = state["epoch"], state["position"]


def prefetch(make: Callable[[int], Batch], positions: Iterable[int]) -> Iterator[Batch]:
    """Yield what `make` makes of each position, each made by a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for position in positions:
            ready, coming = coming, pool.submit(make, position)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _paired(relations: Relations) -> Relations:
    """Return the relations of a batch, labelled ones as pairs within their class."""
    if relations.label is None or (relations.positive != ABSENT).all():
        return relations
    labelled = np.flatnonzero((relations.positive == ABSENT) & (relations.label != ABSENT))
    rows, positive = pairs_within_classes(relations.label[labelled], relations.anchor[labelled])
    all_positive = relations.positive.copy()
    all_positive[labelled[rows]] = positive
    # In the order of the rows, without those whose class has no other item here.
    return replace(relations, positive=all_positive).take(np.flatnonzero(all_positive != ABSENT))


def _in_copies(places: Ints, known_E2: Ints, copies_D: Ints) -> tuple[Ints, Ints]:
    """Return places and known pairs of D items among their copies: each use has its own, if there are any.

    Copies of one item are known positives of each other, and of all copies of its known positives.
    """
    if (copies_D == 1).all():
        return places, known_E2
    firsts_D = np.cumsum(copies_D) - copies_D
    used = places[places >= 0]
    order = np.argsort(used, kind="stable")
    own = np.empty_like(used)
    own[order] = np.arange(len(used))  # the copies of an item stand together, in the order of their uses
    own_places = places.copy()
    own_places[places >= 0] = own
    several = np.flatnonzero(copies_D > 1)
    pairs_E2 = np.concatenate([known_E2, np.column_stack([several, several])])
    left, right = pairs_E2.T
    pair = np.repeat(np.arange(len(pairs_E2)), copies_D[left])
    left_copies = flat_ranges(firsts_D[left], copies_D[left])
    each = copies_D[right[pair]]
    return own_places, np.column_stack([np.repeat(left_copies, each), flat_ranges(firsts_D[right[pair]], each)])


def _tensor(values: Any) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)
