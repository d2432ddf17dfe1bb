"""Which process of its run this is: the environment says it, whoever started the processes.

Imports next to nothing: the first lines of a program ask it.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, NamedTuple

# The process that started this one as a further process of its run (runner/spawn.py).
STARTED_BY = "FINETUNE_STARTED_BY"
# What tells a process that it is one of several of a run; a run that is started from within one is none of them.
OF_A_RUN = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "PL_GLOBAL_SEED", STARTED_BY),
)

# Programs in which a user types commands; with a script as an argument they are a way to start one.
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "tcsh", "csh", "tmux", "screen")

# Commands that start the processes of a run: torchrun under its names, and the daemon of srun.
_STARTERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "slurmstepd")

Starter = Literal["", "torchrun", "srun", "the first process"]


class RankInfo(NamedTuple):
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

    @property
    def if_alone(self) -> str:
        """What to do if this process was taken for one of several, and is alone."""
        mark = {"torchrun": "TORCHELASTIC_RUN_ID", "srun": "SLURM_STEP_NUM_TASKS"}.get(self.starter, STARTED_BY)
        return f"If {self.starter} did not start this process as one of {self.world}, unset {mark} and start it again."


def current_rank() -> RankInfo:
    """Return which process of its run this is."""
    if "TORCHELASTIC_RUN_ID" in os.environ or STARTED_BY in os.environ:
        rank, world, local_rank, local_world = map(number, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        starter: Starter = "the first process" if STARTED_BY in os.environ else "torchrun"
        return RankInfo(rank, max(1, world), local_rank, max(1, local_world), starter)
    # Of srun alone: a batch script has the other numbers too, and is one process.
    if (world := number("SLURM_STEP_NUM_TASKS", 1)) > 1 and not _is_typed_into_srun():
        local_world = max(1, world // max(1, number("SLURM_STEP_NUM_NODES", 1)))
        return RankInfo(number("SLURM_PROCID"), world, number("SLURM_LOCALID"), local_world, "srun")
    return RankInfo()


def _is_typed_into_srun() -> bool:
    """Return whether this is a command in an interactive shell of srun (`srun -n4 --pty bash`), and so is alone.

    Such a shell has the numbers of a step of several tasks, whose others have no terminal and do not run us.
    """
    has_terminal = "SLURM_PTY_PORT" in os.environ
    # salloc calls its job so too, and its srun may start us as several.
    if not has_terminal and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return False
    task = number("SLURM_TASK_PID")
    words = _command_of(task)
    if not words:
        return has_terminal or not task
    from pathlib import Path

    is_shell = Path(words[0]).name.lstrip("-") in _SHELLS
    return is_shell and all(word.startswith("-") for word in words[1:])


def _command_of(pid: int) -> list[str]:
    """Return the words of the command that a process is; none if the system does not say."""
    from pathlib import Path

    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def speaks() -> bool:
    """Return whether this process says what is wrong with its command line.

    Only the first process of a run does. One with the numbers of another is silent only if its parent is what starts
    such processes: the numbers may also have been left in the environment of a single command.
    """
    here = current_rank()
    if here.rank == 0:
        return True
    if here.starter == "the first process":
        return os.getppid() != number(STARTED_BY)
    words = _command_of(os.getppid())
    return not any(word.rpartition("/")[2].partition(":")[0] in _STARTERS for word in words[:3])


def how_it_ended(exit_code: int) -> str:
    """Return in words how a process of the system ended; it is negative for a signal, as in Python's subprocess."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # the signals of real time have no names of their own
        return f"was killed by signal {-exit_code}"


def settle(here: RankInfo) -> None:
    """Say in the environment which process this is, as torchrun does: Lightning and torch read it there."""
    os.environ |= {
        **{"RANK": str(here.rank), "WORLD_SIZE": str(here.world)},
        **{"LOCAL_RANK": str(here.local_rank), "LOCAL_WORLD_SIZE": str(here.local_world)},
        "GROUP_RANK": str(here.rank // here.local_world),
    }


def be_alone() -> None:
    """Remove from the environment what an outer job of several processes left there: Lightning and torch read it."""
    for name in OF_A_RUN:
        os.environ.pop(name, None)
    if "SLURM_PROCID" in os.environ:
        os.environ["RANK"] = "0"  # read first: Lightning lets no other process write


def is_first() -> bool:
    """Return whether this process speaks and writes for its run."""
    return current_rank().rank == 0


def number(name: str, otherwise: int = 0) -> int:
    """Return a number of the environment; `otherwise` where there is none."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else otherwise
