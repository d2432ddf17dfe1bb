"""Collective operations between the processes of a run; without other processes they return at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from finetune import ranks
from finetune.wait_notice import MAX_WAIT, wait_for_all

_T = TypeVar("_T")
_MAX_CHUNK_BYTES = 2**26  # of one operation


def count_started() -> int:
    """Return how many operations between all processes this one has started; 0 until they are connected.

    Includes those of DDP and FSDP, which use the same group of processes.
    """
    if not distributed.is_initialized():
        return 0
    group: Any = distributed.group.WORLD
    return int(group._get_sequence_number_for_group())


class _Strategy(Protocol):
    @property
    def root_device(self) -> torch.device: ...

    def connect(self, model: Any) -> None: ...

    def setup_environment(self) -> None: ...


class DistributedTrainer(Protocol):
    """The part of Lightning's Trainer that is used here."""

    @property
    def strategy(self) -> _Strategy:
        """What places the model on a device and connects the processes."""

    @property
    def global_rank(self) -> int:
        """The rank of this process, from 0 on."""

    @property
    def world_size(self) -> int:
        """The number of processes."""


class Collectives:
    """The operations, called by process `rank` of `world`, whose tensors are on `device`.

    Every process of the run has to call the same operations in the same order.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.device, self.rank, self.world = device, rank, world

    @classmethod
    def from_trainer(cls, trainer: DistributedTrainer) -> Collectives:
        """Return the operations between the processes of a trainer."""
        return cls(trainer.strategy.root_device, trainer.global_rank, trainer.world_size)

    def init_process_group(self, trainer: DistributedTrainer, module: Any) -> None:
        """Connect the processes before the training starts, which is when Lightning would do it.

        Raises:
            RunError: a process is missing.
        """
        if self.world == 1:
            return
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, torch.get_num_threads() // ranks.current_rank().local_world))
        trainer.strategy.connect(module)
        self._wait_for_all()
        trainer.strategy.setup_environment()

    def _wait_for_all(self) -> None:
        """Wait in Python until every process is connected: inside torch's process group no signal is handled.

        Raises:
            RunError: a process is missing.
        """
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = distributed.TCPStore(host, port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        keys = [f"begin/{restart}/{rank}" for rank in range(self.world)]
        store.set(keys[self.rank], "")

        def missing() -> list[int]:
            return [rank for rank, key in enumerate(keys) if not store.check([key])]

        wait_for_all(missing, ranks.current_rank(), MAX_WAIT)

    def broadcast(self, value: _T) -> _T:
        """Return the first process's value in all processes."""
        if self.world == 1:
            return value
        values: list[Any] = [value]
        distributed.broadcast_object_list(values, device=self.device)
        received: _T = values[0]
        return received

    def broadcast_array(self, values: NDArray[Any] | None) -> NDArray[Any]:
        """Return the first process's array in all processes; the others give None.

        Unlike `broadcast`, it needs no memory but for the array and a chunk.
        """
        if self.world == 1:
            assert values is not None
            return values
        header = self.broadcast(None if values is None else (values.shape, values.dtype))
        if values is None:
            assert header is not None
            values = np.empty(*header)
        for rows in _chunks(values):
            chunk = torch.tensor(values[rows], device=self.device)
            distributed.broadcast(chunk, 0)
            if self.rank > 0:
                values[rows] = chunk.cpu().numpy()
        return values

    def all_gather(self, value: _T) -> list[_T]:
        """Return the values of all processes, in the order of their ranks."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(values, value)
        return values

    def all_reduce_max(self, value: int) -> int:
        """Return the largest value of all processes."""
        largest = torch.tensor(value, device=self.device)
        if self.world > 1:
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def all_reduce_any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        is_set = torch.tensor(flags, dtype=torch.int32, device=self.device)
        distributed.all_reduce(is_set, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in is_set.tolist()]

    def reduce_sum(self, values: NDArray[Any]) -> None:
        """Sum `values` over all processes, in place, in the first one; afterwards those of the others are undefined.

        The sum is exact where a value is computed by one process and is zero in the others.
        """
        if self.world == 1:
            return
        for rows in _chunks(values):
            chunk = torch.from_numpy(values[rows]).to(self.device)
            distributed.reduce(chunk, 0)
            values[rows] = chunk.cpu().numpy()


def _chunks(values: NDArray[Any]) -> Iterator[slice]:
    """Yield the rows of chunks of at most `_MAX_CHUNK_BYTES`, or of one row."""
    rows = max(1, _MAX_CHUNK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), rows):
        yield slice(start, start + rows)
