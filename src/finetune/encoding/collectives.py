"""The processes that compute something together: those of a trainer, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import distributed

from finetune import ranks
from finetune.wait_notice import MAX_WAIT, wait_for_all

_T = TypeVar("_T")
_BYTES_AT_ONCE = 2**26


class Collectives:
    """This process, on its `device`, as the one of `rank` among `world`."""

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.device, self.rank, self.world = device, rank, world

    @classmethod
    def of(cls, trainer: Trainer) -> Collectives:
        """Return the processes of a trainer."""
        return cls(trainer.strategy.root_device, trainer.global_rank, trainer.world_size)

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Let the processes of a trainer meet before it trains, which is when Lightning would do so."""
        if self.world == 1:
            return
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, torch.get_num_threads() // ranks.current_rank().local_world))
        trainer.strategy.connect(module)
        self._wait_for_all()
        trainer.strategy.setup_environment()

    def _wait_for_all(self) -> None:
        """Wait until every process is here, before the process group would, which hears no signal.

        Raises:
            RunError: they do not come.
        """
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = distributed.TCPStore(host, port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
        keys = [f"begin/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}" for rank in range(self.world)]
        store.set(keys[self.rank], "")
        wait_for_all(
            lambda: [rank for rank, key in enumerate(keys) if not store.check([key])], ranks.current_rank(), MAX_WAIT
        )

    def broadcast(self, value: _T) -> _T:
        """Return the value that the first process gives, in all of them."""
        if self.world == 1:
            return value
        values: list[Any] = [value]
        distributed.broadcast_object_list(values, device=self.device)
        found: _T = values[0]
        return found

    def all_gather(self, value: _T) -> list[_T]:
        """Return what each process gives, in their order."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(values, value)
        return values

    def largest(self, value: int) -> int:
        """Return the largest of the values that the processes give."""
        found = torch.tensor(value, device=self.device)
        if self.world > 1:
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        found = torch.tensor(flags, dtype=torch.int32, device=self.device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in found.tolist()]

    def reduce_sum(self, values: NDArray[np.float32]) -> None:
        """Let the first process have the sum over all, in place; of what only one has, and the others have zeros."""
        if self.world == 1:
            return
        rows = max(1, _BYTES_AT_ONCE // max(1, values[:1].nbytes))
        for start in range(0, len(values), rows):
            part = torch.from_numpy(values[start : start + rows]).to(self.device)
            distributed.reduce(part, 0)
            values[start : start + rows] = part.cpu().numpy()
