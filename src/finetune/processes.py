"""Which process of its run this is: the environment says it, whoever started the processes.

Imports next to nothing: the first lines of a program ask it.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, NamedTuple

# The process that started this one as a further process of its run (launch/others.py).
STARTED_BY = "FINETUNE_STARTED_BY"
# What tells a process that it is one of several of a run; a run that is started from within one is none of them.
OF_A_RUN = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "PL_GLOBAL_SEED", STARTED_BY),
)


Starter = Literal["", "torchrun", "srun", "the first process"]


class Place(NamedTuple):
    """Which process this is: `rank` of `world` over all machines, `local_rank` of `local_world` on this one.

    `starter` is who started the processes; empty if this process does so itself, or is alone.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    starter: Starter = ""

    @property
    def machines(self) -> int:
        """On how many machines the processes are, if on each of them as many as on this one."""
        return max(1, self.world // self.local_world)


def place() -> Place:
    """Return which process of its run this is."""
    if "TORCHELASTIC_RUN_ID" in os.environ or STARTED_BY in os.environ:
        rank, world, local_rank, local_world = map(_number, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        starter: Starter = "the first process" if STARTED_BY in os.environ else "torchrun"
        return Place(rank, max(1, world), local_rank, max(1, local_world), starter)
    # Of srun alone: a batch script has the other numbers too, and is one process.
    if (world := _number("SLURM_STEP_NUM_TASKS", 1)) > 1:
        local_world = world // _number("SLURM_STEP_NUM_NODES", 1)
        return Place(_number("SLURM_PROCID"), world, _number("SLURM_LOCALID"), local_world, "srun")
    return Place()


def how_it_ended(exit_code: int) -> str:
    """Return in words how a process of the system ended; it is negative for a signal, as in Python's subprocess."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # the signals of real time have no names of their own
        return f"was killed by signal {-exit_code}"


def settle(here: Place) -> None:
    """Say in the environment which process this is, as torchrun does: Lightning and torch read it there."""
    os.environ |= {
        **{"RANK": str(here.rank), "WORLD_SIZE": str(here.world)},
        **{"LOCAL_RANK": str(here.local_rank), "LOCAL_WORLD_SIZE": str(here.local_world)},
        "GROUP_RANK": str(here.rank // here.local_world),
    }


def is_first() -> bool:
    """Return whether this process speaks and writes for its run."""
    return place().rank == 0


def _number(name: str, otherwise: int = 0) -> int:
    return int(os.environ.get(name) or otherwise)
