"""Epochs over one source or several: which batch, or which part of every batch, comes from which source.

Everything follows from the seed and the number of the epoch, so that a run resumes from these two and a position alone.

S sources, K batches of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from finetune.data.arrays import Ints
from finetune.data.items import ABSENT
from finetune.data.relations import Relations
from finetune.data.sampling import ByClass, Plan, Sampler, Shuffled, Unique, even_bounds, number_of_batches

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """What one of several sources has for itself; None is as for all. `weight` is its share beside the others'."""

    name: str
    weight: float | None = None
    batch_size: int | None = None
    items_per_class: int | None = None


@dataclass(frozen=True)
class BatchSettings:
    """How batches are made; the keys are explained in `conf/data/files.yaml`."""

    batch_size: int
    unique: bool = False
    items_per_class: int = 4
    shares: Sequence[Share] = ()
    temperature: float | None = None
    one_source: bool = True


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
        """Return the rows from the `start`-th to the `end`-th since the first epoch began."""
        parts = []
        while start < end:
            number, place = divmod(start, len(self.rows))
            part = self.plan(number).rows[place : place + end - start]
            parts.append(self.rows[part])
            start += len(part)
        return np.concatenate([np.empty(0, np.int64), *parts])


class Epochs:
    """Every epoch's batches as rows of the relations; `len` of them in each epoch, exactly."""

    def __init__(self, relations: Relations, settings: BatchSettings, seed: int) -> None:
        self.settings = settings
        self._seed = seed
        self._streams = [*_streams(relations, settings, seed)]
        self._mixed = not settings.one_source and len(self._streams) > 1

    def __len__(self) -> int:
        if self._mixed:
            return number_of_batches(int(self._rows_of.sum()), self.settings.batch_size)
        return int(self._batches_of.sum())

    @property
    def several(self) -> bool:
        """Whether there are several sources, one of which each batch is from."""
        return len(self._streams) > 1 and not self._mixed

    def batch(self, epoch: int, place: int) -> tuple[Ints, int | None]:
        """Return the rows of one batch of an epoch, and the source that all of them are from, if there are several."""
        if self._mixed:
            parts = [self._part(source, epoch, place) for source in range(len(self._streams))]
            return np.concatenate(parts), None
        if len(self._streams) == 1:
            return self._streams[0].batch(epoch * len(self) + place), None
        order = self._order(epoch)
        source = int(order[place])
        earlier = epoch * int(self._batches_of[source]) + int((order[:place] == source).sum())
        return self._streams[source].batch(earlier), source

    def _part(self, source: int, epoch: int, place: int) -> Ints:
        rows = int(self._rows_of[source])
        low, high = even_bounds(rows, len(self))[place : place + 2]
        return self._streams[source].stretch(epoch * rows + int(low), epoch * rows + int(high))

    def _order(self, epoch: int) -> Ints:
        """Return the source of each batch of an epoch, (K,), in random order."""
        sources = np.repeat(np.arange(len(self._streams)), self._batches_of)
        return np.random.default_rng([self._seed, epoch]).permutation(sources)

    @cached_property
    def _batches_of(self) -> Ints:
        """How many batches an epoch has from each source: all of one pass together, shared out as asked."""
        own = np.array([stream.sampler.batches for stream in self._streams])
        return own if not self._weighted else _shared_out(int(own.sum()), self._shares)

    @cached_property
    def _rows_of(self) -> Ints:
        """How many rows an epoch has from each source, where every batch is of all."""
        own = np.array([len(stream.rows) for stream in self._streams])
        return own if not self._weighted else _shared_out(int(own.sum()), self._shares)

    @property
    def _weighted(self) -> bool:
        given = any(share.weight is not None for share in self.settings.shares)
        return len(self._streams) > 1 and (given or self.settings.temperature is not None)

    @property
    def _shares(self) -> Shares:
        """The share of each source, adding up to 1.

        By size to the power of 1/temperature (Conneau and Lample 2019, https://arxiv.org/abs/1901.07291), times its
        weight where it has one; with weights and no temperature, by the weights alone.
        """
        sizes = np.array([len(stream.rows) for stream in self._streams], float)
        weights = np.array([1.0 if share.weight is None else share.weight for share in self.settings.shares])
        temperature = self.settings.temperature
        share: Shares = weights if temperature is None else weights * sizes ** (1 / temperature)
        return share / float(share.sum())


def _streams(relations: Relations, settings: BatchSettings, seed: int) -> list[_Stream]:
    if relations.source is None or len(settings.shares) < 2:
        rows = np.arange(len(relations))
        return [_Stream(rows, _sampler(relations, settings, settings.batch_size, settings.items_per_class), (seed,))]
    streams = []
    for number, share in enumerate(settings.shares):
        rows = np.flatnonzero(relations.source == number)
        batch_size = share.batch_size or settings.batch_size
        per_class = share.items_per_class or settings.items_per_class
        sampler = _sampler(relations.take(rows), settings, batch_size, per_class)
        streams.append(_Stream(rows, sampler, (seed, number)))
    return streams


def _sampler(relations: Relations, settings: BatchSettings, batch_size: int, items_per_class: int) -> Sampler:
    if relations.label is not None and len(relations) and (relations.positive == ABSENT).all():
        return ByClass(relations.label, batch_size, items_per_class)
    return Unique(relations, batch_size) if settings.unique else Shuffled(len(relations), batch_size)


def _shared_out(total: int, share_S: Shares) -> Ints:
    """Return whole numbers that add up to `total`, at least one each, nearest to the shares (largest remainder)."""
    exact = share_S * total
    counts: Ints = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    # A source that is named is to be seen.
    while (counts == 0).any() and counts.max() > 1:
        counts[np.argmin(counts)] += 1
        counts[np.argmax(counts)] -= 1
    return counts
