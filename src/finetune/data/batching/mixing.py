"""Epochs over one source or several: the source of each batch, or of each part of every batch.

Everything depends on the seed and the number of the epoch only, so that a run resumes from these and a position.

S sources, K batches of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finetune.data.arrays import Ints
from finetune.data.batching.sampling import ByClass, Plan, Sampler, Shuffled, Unique, even_bounds, number_of_batches
from finetune.data.items import ABSENT
from finetune.data.keys import keys_affecting, source_keys
from finetune.data.relations import Bools, Relations

if TYPE_CHECKING:
    from finetune.data.settings import Data

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SourceShare:
    """The batch settings of one of several sources; None is the common value. `weight` is its relative share."""

    name: str
    weight: float | None = None
    batch_size: int | None = None
    items_per_class: int | None = None


@dataclass(frozen=True)
class BatchSettings:
    """How batches are made; the fields are keys of `conf/data/files.yaml`, and `shares` one entry for each source."""

    batch_size: int
    unique: bool = False
    items_per_class: int = 4
    shares: Sequence[SourceShare] = ()
    mix_temperature: float | None = None
    one_source_per_batch: bool = True
    encode_once: bool = True

    @classmethod
    def from_data(cls, settings: Data) -> BatchSettings:
        """Return the batch settings among those of the `data` group."""
        shares = []
        for name, own in (settings.sources or {}).items():
            shares.append(SourceShare(name, **{key: own.get(key) for key in source_keys("batching")}))
        return cls(shares=shares, **{key: getattr(settings, key) for key in keys_affecting("batching")})


@dataclass
class _RowStream:
    """The rows of one source, pass after pass, each in a different order."""

    rows: Ints
    sampler: Sampler
    seed: tuple[int, ...]
    _last: tuple[int, Plan] | None = field(default=None, init=False)

    def plan(self, number: int) -> Plan:
        """Return the plan of one pass; the last one is cached, since its batches are requested one by one."""
        last = self._last  # another thread may replace it
        if last is None or last[0] != number:
            last = self._last = number, self.sampler.plan(np.random.default_rng([*self.seed, number]))
        return last[1]

    def batch(self, index: int) -> Ints:
        """Return the rows of the `index`-th batch since the start of the first epoch."""
        number, position = divmod(index, self.sampler.batches)
        return self.rows[self.plan(number).batch(position)]

    def row_range(self, start: int, end: int) -> Ints:
        """Return the rows from the `start`-th to the `end`-th since the start of the first epoch.

        Of labelled rows it starts and ends up to two rows later, so that no row is without another of its class.
        """
        parts = [np.empty(0, np.int64)]
        start = self._move_cut(start)
        while start < end:
            number, position = divmod(start, len(self.rows))
            plan = self.plan(number)
            part = plan.rows[position : plan.move_cut(min(position + end - start, len(self.rows)))]
            parts.append(self.rows[part])
            start += len(part)
        return np.concatenate(parts)

    def _move_cut(self, index: int) -> int:
        """Return the index at or after `index` where the rows can be cut (`Plan.move_cut`)."""
        number, position = divmod(index, max(1, len(self.rows)))
        if position == 0:
            return index
        return index - position + self.plan(number).move_cut(position)


class Epochs:
    """The batches of every epoch as rows of the relations; each epoch has exactly `len` batches."""

    def __init__(self, relations: Relations, settings: BatchSettings, seed: int) -> None:
        self.settings = settings
        self._seed = seed
        self._streams = list(_streams(relations, settings, seed))
        self._mixed = not settings.one_source_per_batch and len(self._streams) > 1
        self._order: tuple[int, Ints, Ints] | None = None

    def __len__(self) -> int:
        if self._mixed:
            return number_of_batches(int(self._rows_of.sum()), self.settings.batch_size)
        return int(self._batches_of.sum())

    def batch(self, epoch: int, position: int) -> tuple[Ints, int | None]:
        """Return the rows of one batch of an epoch, and their source if they are from one of several."""
        if self._mixed:
            parts = [self._part(source, epoch, position) for source in range(len(self._streams))]
            return np.concatenate(parts), None
        if len(self._streams) == 1:
            return self._streams[0].batch(epoch * len(self) + position), None
        source_K, earlier_K = self._turns(epoch)
        source = int(source_K[position])
        index = epoch * int(self._batches_of[source]) + int(earlier_K[position])
        return self._streams[source].batch(index), source

    def left_out(self) -> int:
        """Return how many rows are in no batch of a pass, as `unique` can leave some out."""
        return sum(len(stream.rows) - len(stream.plan(0).rows) for stream in self._streams if len(stream.rows))

    def _part(self, source: int, epoch: int, position: int) -> Ints:
        """Return the rows of one source in a batch of all sources."""
        low, high = self._cuts[source, position : position + 2].tolist()
        earlier = epoch * int(self._rows_of[source])
        return self._streams[source].row_range(earlier + low, earlier + high)

    @cached_property
    def _cuts(self) -> Ints:
        """Where the batches of an epoch cut the rows of each source, (S, K + 1); all batches are of equal size."""
        # The rows of all sources in one sequence, those of each source evenly spread.
        when = np.concatenate([(np.arange(rows) + 0.5) / max(1, rows) for rows in self._rows_of])
        source = np.repeat(np.arange(len(self._streams)), self._rows_of)[np.argsort(when, kind="stable")]
        bounds = even_bounds(len(source), len(self))
        cuts = [np.searchsorted(np.flatnonzero(source == number), bounds) for number in range(len(self._streams))]
        return np.array(cuts)

    def _turns(self, epoch: int) -> tuple[Ints, Ints]:
        """Return the source of each batch of an epoch, in random order, and its earlier batches, two (K,)."""
        if self._order is None or self._order[0] != epoch:
            source_K = np.repeat(np.arange(len(self._streams)), self._batches_of)
            source_K = np.random.default_rng([self._seed, epoch]).permutation(source_K)
            earlier_K = np.empty_like(source_K)
            for source, batches in enumerate(self._batches_of):
                earlier_K[source_K == source] = np.arange(batches)
            self._order = epoch, source_K, earlier_K
        return self._order[1:]

    @cached_property
    def _batches_of(self) -> Ints:
        """The number of batches of an epoch from each source: the total of one pass, divided by the shares."""
        return self._divided(np.array([stream.sampler.batches for stream in self._streams]))

    @cached_property
    def _rows_of(self) -> Ints:
        """The number of rows of an epoch from each source, where every batch is of all sources."""
        return self._divided(np.array([len(stream.rows) for stream in self._streams]))

    def _divided(self, own_S: Ints) -> Ints:
        """Return the amount of each source in an epoch, if one pass over each has `own_S`; the sum stays the same.

        Shares are proportional to size^(1/temperature) (Conneau and Lample 2019, https://arxiv.org/abs/1901.07291)
        times the weight, if there is one; with weights and no temperature, to the weights alone.
        """
        weights = [share.weight for share in self.settings.shares]
        temperature = self.settings.mix_temperature
        if len(own_S) == 1 or (temperature is None and not any(weights)):
            return own_S
        share_S = np.array([1.0 if weight is None else weight for weight in weights])
        if temperature is not None:
            share_S = share_S * own_S ** (1 / temperature)
        share_S[own_S == 0] = 0
        return _divide(int(own_S.sum()), share_S)


def _streams(relations: Relations, settings: BatchSettings, seed: int) -> Iterator[_RowStream]:
    if relations.source is None or len(settings.shares) < 2:
        yield _stream(relations, np.arange(len(relations)), settings, SourceShare(""), (seed,))
        return
    for number, share in enumerate(settings.shares):
        yield _stream(relations, np.flatnonzero(relations.source == number), settings, share, (seed, number))


def _stream(
    relations: Relations, rows: Ints, settings: BatchSettings, share: SourceShare, seed: tuple[int, ...]
) -> _RowStream:
    batch_size = share.batch_size or settings.batch_size
    if relations.label is not None and (relations.positive[rows] == ABSENT).all():
        rows = rows[_has_another(relations.label[rows])]
        per_class = share.items_per_class or settings.items_per_class
        return _RowStream(rows, ByClass(relations.label[rows], batch_size, per_class), seed)
    sampler: Sampler = Shuffled(len(rows), batch_size)
    if settings.unique:
        sampler = Unique(relations.take(rows), batch_size)
    return _RowStream(rows, sampler, seed)


def _has_another(label_R: Ints) -> Bools:
    """Return which rows have another of their class: after holding out, one may be left alone."""
    counts = np.bincount(label_R + 1, minlength=1)
    counts[0] = 0  # no class
    return counts[label_R + 1] > 1


def _divide(total: int, share_S: Shares) -> Ints:
    """Return whole numbers that add up to `total`, nearest to the shares (largest remainder), at least one each."""
    if total == 0:
        return np.zeros(len(share_S), np.int64)
    exact = share_S / share_S.sum() * total
    counts: Ints = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    # Every source with a share gets at least one, taken from the largest, as long as that has more than one.
    for source in np.flatnonzero((counts == 0) & (share_S > 0)):
        if counts.max() <= 1:
            break
        counts[source] += 1
        counts[np.argmax(counts)] -= 1
    return counts
