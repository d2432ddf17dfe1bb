"""The further processes of a run, started by its first one; on one machine, where nobody else starts them."""

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

from finetune.ranks import STARTED_BY, how_it_ended
from finetune.runner.rendezvous import Rendezvous

RUN_SCRIPT = Path(__file__).with_name("__main__.py")
_PR_SET_PDEATHSIG = 1  # a name of Linux's prctl.h
_SECONDS_TO_END = 10.0


class SpawnedRanks:
    """Processes 1, 2, ... of a run, that its first one starts; as a context: none of them is there any more in the end.

    `peers` is empty, and nobody is started, where the run has one process; nor where somebody else starts them.
    """

    def __init__(self, peers: Rendezvous | None) -> None:
        self._peers = peers
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(_SECONDS_TO_END if error is None else 0)

    def start(self, words: Sequence[str]) -> None:
        """Start them with the same words."""
        if self._peers is None or self._peers.place.starter != "the first process":
            return
        self._peers.gone = self._gone
        for rank in range(1, self._peers.place.world):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # In a group of its own: Ctrl-C reaches the first process alone, and by it the others.
            child = subprocess.Popen(
                [sys.executable, str(RUN_SCRIPT), *words],
                env=os.environ | mine,
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
            self._children.append(child)

    def _gone(self) -> dict[int, str]:
        """Return those that ended otherwise than at the end of the run, by their rank."""
        ended = {rank: child.poll() for rank, child in enumerate(self._children, start=1)}
        return {rank: how_it_ended(code) for rank, code in ended.items() if code}

    def _end(self, seconds: float) -> None:
        """Wait so long for them to end, then kill them."""
        until = time.monotonic() + seconds
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0, until - time.monotonic()))
        for child in self._children:
            child.kill()
            child.wait()


def exit_with_parent() -> None:
    """Let the system kill this process when the one that started it ends, whatever ends that."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[STARTED_BY]):
        os._exit(1)  # it has ended already
