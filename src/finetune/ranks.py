"""Which process of its run this is, read from the environment variables that its starter set.

Imports as little as possible: the first lines of a program use it.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, NamedTuple

# The process that started this one as a further process of its run (runner/spawn.py).
STARTED_BY = "FINETUNE_STARTED_BY"
# Variables by which a process is one of several of a run; a run that is started from such a process must not get them.
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "PL_GLOBAL_SEED", STARTED_BY),
)

# Programs in which a user types commands; with a script as an argument they run that instead.
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "tcsh", "csh", "tmux", "screen")

# Commands that start the processes of a run: torchrun under its names, and the daemon of srun.
_STARTERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "slurmstepd")

Starter = Literal["", "torchrun", "srun", "the first process"]


class RankInfo(NamedTuple):
    """Which process this is: `rank` of `world` over all machines, `local_rank` of `local_world` on this one.

    `starter` is what started the processes; empty if this process starts them itself, or is the only one.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    starter: Starter = ""

    @property
    def machines(self) -> int:
        """The number of machines, if each of them has as many processes as this one."""
        return max(1, self.world // self.local_world)

    @property
    def advice_if_alone(self) -> str:
        """What to do if this process was taken for one of several, but is the only one."""
        mark = {"torchrun": "TORCHELASTIC_RUN_ID", "srun": "SLURM_STEP_NUM_TASKS"}.get(self.starter, STARTED_BY)
        return f"If {self.starter} did not start this process as one of {self.world}, unset {mark} and start it again."


def current_rank() -> RankInfo:
    """Return which process of its run this is."""
    if "TORCHELASTIC_RUN_ID" in os.environ or STARTED_BY in os.environ:
        rank, world, local_rank, local_world = map(env_int, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        starter: Starter = "the first process" if STARTED_BY in os.environ else "torchrun"
        return RankInfo(rank, max(1, world), local_rank, max(1, local_world), starter)
    # The variable of srun only: a batch script has the others too, and is one process.
    world = env_int("SLURM_STEP_NUM_TASKS", 1)
    if world > 1 and not _is_typed_into_srun():
        local_world = max(1, world // max(1, env_int("SLURM_STEP_NUM_NODES", 1)))
        return RankInfo(env_int("SLURM_PROCID"), world, env_int("SLURM_LOCALID"), local_world, "srun")
    return RankInfo()


def _is_typed_into_srun() -> bool:
    """Return whether this is a command in an interactive shell of srun (`srun -n4 --pty bash`), and so one process.

    Such a shell has the variables of a step of several tasks, whose other tasks have no terminal and do not run us.
    """
    has_terminal = "SLURM_PTY_PORT" in os.environ
    # salloc names its job the same way, and its srun may start several of us.
    if not has_terminal and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return False
    task = env_int("SLURM_TASK_PID")
    words = _command_of(task)
    if not words:
        return has_terminal or not task
    from pathlib import Path

    is_shell = Path(words[0]).name.lstrip("-") in _SHELLS
    return is_shell and all(word.startswith("-") for word in words[1:])


def _command_of(pid: int) -> list[str]:
    """Return the command line of a process; empty if the system does not provide it."""
    from pathlib import Path

    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def should_print() -> bool:
    """Return whether this process prints what is wrong with its command line.

    Only the first process of a run does. Another one is silent only if its parent is a program that starts such
    processes: its rank may also be a leftover in the environment of a single command.
    """
    info = current_rank()
    if info.rank == 0:
        return True
    if info.starter == "the first process":
        return os.getppid() != env_int(STARTED_BY)
    words = _command_of(os.getppid())
    return not any(word.rpartition("/")[2].partition(":")[0] in _STARTERS for word in words[:3])


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, in words; the code is negative for a signal, as in Python's subprocess."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # real-time signals have no names
        return f"was killed by signal {-exit_code}"


def set_rank_variables(info: RankInfo) -> None:
    """Set the environment variables of a rank as torchrun does: Lightning and torch read them."""
    os.environ |= {
        **{"RANK": str(info.rank), "WORLD_SIZE": str(info.world)},
        **{"LOCAL_RANK": str(info.local_rank), "LOCAL_WORLD_SIZE": str(info.local_world)},
        "GROUP_RANK": str(info.rank // info.local_world),
    }


def remove_rank_variables() -> None:
    """Remove the variables that an outer job of several processes left: Lightning and torch would read them."""
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    if "SLURM_PROCID" in os.environ:
        os.environ["RANK"] = "0"  # read first: Lightning lets no other process write


def is_first() -> bool:
    """Return whether this process is the one that prints and writes for its run."""
    return current_rank().rank == 0


def env_int(name: str, default: int = 0) -> int:
    """Return an environment variable as an integer; `default` if it is not a number or not set."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else default
