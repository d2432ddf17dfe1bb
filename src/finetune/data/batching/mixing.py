"""Epochs over one source or several: which batch, or which part of every batch, comes from which source.

Everything follows from the seed and the number of the epoch, so that a run resumes from these two and a position alone.

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
    """What one of several sources has for itself; None is as for all. `weight` is its share beside the others'."""

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
class _Stream:
    """One source: its rows, pass after pass, each in an order of its own."""

    rows: Ints
    sampler: Sampler
    seed: tuple[int, ...]
    _last: tuple[int, Plan] | None = field(default=None, init=False)

    def plan(self, number: int) -> Plan:
        """Return the plan of one pass; the last one is remembered, since its batches are asked for one by one."""
        if self._last is None or self._last[0] != number:
            self._last = number, self.sampler.plan(np.random.default_rng([*self.seed, number]))
        return self._last[1]

    def batch(self, index: int) -> Ints:
        """Return the rows of the `index`-th batch since the first epoch began."""
        number, place = divmod(index, self.sampler.batches)
        return self.rows[self.plan(number).batch(place)]

    def stretch(self, start: int, end: int) -> Ints:
        """Return the rows from the `start`-th to the `end`-th since the first epoch began.

        Of labelled rows it begins and ends one or two later where one would be left without another of its class.
        """
        parts = [np.empty(0, np.int64)]
        start = self._whole(start)
        while start < end:
            number, place = divmod(start, len(self.rows))
            plan = self.plan(number)
            part = plan.rows[place : plan.whole(min(place + end - start, len(self.rows)))]
            parts.append(self.rows[part])
            start += len(part)
        return np.concatenate(parts)

    def _whole(self, place: int) -> int:
        number, within = divmod(place, max(1, len(self.rows)))
        return place - within + self.plan(number).whole(within) if within else place


class Epochs:
    """Every epoch's batches as rows of the relations; `len` of them in each epoch, exactly."""

    def __init__(self, relations: Relations, settings: BatchSettings, seed: int) -> None:
        self.settings = settings
        self._seed = seed
        self._streams = [*_streams(relations, settings, seed)]
        self._mixed = not settings.one_source_per_batch and len(self._streams) > 1
        self._order: tuple[int, Ints, Ints] | None = None

    def __len__(self) -> int:
        if self._mixed:
            return number_of_batches(int(self._rows_of.sum()), self.settings.batch_size)
        return int(self._batches_of.sum())

    def batch(self, epoch: int, place: int) -> tuple[Ints, int | None]:
        """Return the rows of one batch of an epoch, and the source that all of them are from, if there are several."""
        if self._mixed:
            parts = [self._part(source, epoch, place) for source in range(len(self._streams))]
            return np.concatenate(parts), None
        if len(self._streams) == 1:
            return self._streams[0].batch(epoch * len(self) + place), None
        source_K, earlier_K = self._turns(epoch)
        source = int(source_K[place])
        index = epoch * int(self._batches_of[source]) + int(earlier_K[place])
        return self._streams[source].batch(index), source

    def left_out(self) -> int:
        """Return how many rows find no place in the first pass, as `unique` can leave some; as many in each other."""
        return sum(len(stream.rows) - len(stream.plan(0).rows) for stream in self._streams if len(stream.rows))

    def _part(self, source: int, epoch: int, place: int) -> Ints:
        low, high = self._cuts[source, place : place + 2].tolist()
        earlier = epoch * int(self._rows_of[source])
        return self._streams[source].stretch(earlier + low, earlier + high)

    @cached_property
    def _cuts(self) -> Ints:
        """Where the batches of an epoch cut the rows of each source, (S, K + 1); all batches are of equal size."""
        # All rows in a row, those of each source evenly spread.
        when = np.concatenate([(np.arange(rows) + 0.5) / max(1, rows) for rows in self._rows_of])
        source = np.repeat(np.arange(len(self._streams)), self._rows_of)[np.argsort(when, kind="stable")]
        bounds = even_bounds(len(source), len(self))
        cuts = [np.searchsorted(np.flatnonzero(source == number), bounds) for number in range(len(self._streams))]
        return np.array(cuts)

    def _turns(self, epoch: int) -> tuple[Ints, Ints]:
        """Return the source of each batch of an epoch, in random order, and how many were from it before, two (K,)."""
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
        """How many batches an epoch has from each source: all of one pass together, shared out as asked."""
        return self._shared(np.array([stream.sampler.batches for stream in self._streams]))

    @cached_property
    def _rows_of(self) -> Ints:
        """How many rows an epoch has from each source, where every batch is of all."""
        return self._shared(np.array([len(stream.rows) for stream in self._streams]))

    def _shared(self, own_S: Ints) -> Ints:
        """Return how much of each source an epoch has if one pass over each has `own_S`; the sum stays the same.

        Shares are by size to the power of 1/temperature (Conneau and Lample 2019, https://arxiv.org/abs/1901.07291),
        times its weight where it has one; with weights and no temperature, by the weights alone.
        """
        weights = [share.weight for share in self.settings.shares]
        temperature = self.settings.mix_temperature
        if len(own_S) == 1 or (temperature is None and not any(weights)):
            return own_S
        share_S = np.array([1.0 if weight is None else weight for weight in weights])
        if temperature is not None:
            share_S = share_S * own_S ** (1 / temperature)
        share_S[own_S == 0] = 0
        return _shared_out(int(own_S.sum()), share_S)


def _streams(relations: Relations, settings: BatchSettings, seed: int) -> Iterator[_Stream]:
    if relations.source is None or len(settings.shares) < 2:
        yield _stream(relations, np.arange(len(relations)), settings, SourceShare(""), (seed,))
        return
    for number, share in enumerate(settings.shares):
        yield _stream(relations, np.flatnonzero(relations.source == number), settings, share, (seed, number))


def _stream(
    relations: Relations, rows: Ints, settings: BatchSettings, share: SourceShare, seed: tuple[int, ...]
) -> _Stream:
    batch_size = share.batch_size or settings.batch_size
    if relations.label is not None and (relations.positive[rows] == ABSENT).all():
        rows = rows[_has_another(relations.label[rows])]
        per_class = share.items_per_class or settings.items_per_class
        return _Stream(rows, ByClass(relations.label[rows], batch_size, per_class), seed)
    sampler = Unique(relations.take(rows), batch_size) if settings.unique else Shuffled(len(rows), batch_size)
    return _Stream(rows, sampler, seed)


def _has_another(label_R: Ints) -> Bools:
    """Return which rows have another of their class: holding out can leave one alone."""
    counts = np.bincount(label_R + 1, minlength=1)
    counts[0] = 0  # no class
    return counts[label_R + 1] > 1


def _shared_out(total: int, share_S: Shares) -> Ints:
    """Return whole numbers that add up to `total`, nearest to the shares (largest remainder), at least one each."""
    exact = share_S / share_S.sum() * total if total else share_S * 0
    counts: Ints = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    # A source that is named, and has any, is to be seen.
    while (unseen := (counts == 0) & (share_S > 0)).any() and counts.max() > 1:
        counts[np.argmax(unseen)] += 1
        counts[np.argmax(counts)] -= 1
    return counts
