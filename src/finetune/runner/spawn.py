"""The other processes of a run on one machine, started by its first process if nothing else has started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from finetune.ranks import STARTED_BY, describe_exit
from finetune.runner.rendezvous import Rendezvous

RUN_SCRIPT = Path(__file__).with_name("__main__.py")
_PR_SET_PDEATHSIG = 1  # a name of Linux's prctl.h
_SECONDS_TO_END = 10.0


class SpawnedRanks:
    """Processes 1, 2, ... of a run, started by its first process; at the end of the context none of them is left.

    Nothing is started if the run has one process, so that there is no `rendezvous`, or if torchrun or srun starts them.
    """

    def __init__(self, rendezvous: Rendezvous | None) -> None:
        self._rendezvous = rendezvous
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(_SECONDS_TO_END if error is None else 0)

    def start(self, words: Sequence[str]) -> None:
        """Start them, all with the same command-line arguments."""
        rendezvous = self._rendezvous
        if rendezvous is None or rendezvous.info.starter != "the first process":
            return
        rendezvous.exited, rendezvous.kill = self._exited, self._kill
        for rank in range(1, rendezvous.info.world):
            variables = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # In a group of its own: Ctrl-C reaches the first process only, which stops the others.
            child = subprocess.Popen(
                [sys.executable, str(RUN_SCRIPT), *words],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
            self._children.append(child)

    def _exited(self) -> dict[int, str]:
        """Return how each process ended, by rank, except for those that finished the run."""
        exit_codes = {rank: child.poll() for rank, child in enumerate(self._children, start=1)}
        return {rank: describe_exit(code) for rank, code in exit_codes.items() if code}

    def _end(self, seconds: float) -> None:
        """Wait this long for the processes to end, then kill them."""
        end = time.monotonic() + seconds
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0, end - time.monotonic()))
        self._kill()

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()


def exit_with_parent() -> None:
    """Let the system kill this process when the one that started it ends, for whatever reason."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[STARTED_BY]):
        os._exit(1)  # it has ended already
