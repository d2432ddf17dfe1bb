"""What the processes of a run tell each other beside what they compute: where the run is, and why one of them ended.

Through torch's TCPStore at MASTER_ADDR and MASTER_PORT, where the process group meets too; `meeting.py` gets it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import FinetuneError
from finetune.ranks import RankInfo
from finetune.runs.failure_causes import (
    Cause,
    RemoteRankError,
    cause_of,
    is_secondary_failure,
    is_stop,
    out_of_memory_error,
)

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

_TO_BE_HEARD = timedelta(seconds=5)
_SECONDS_BETWEEN_LOOKS = 0.2
# A process that is told of another's end by its own library needs no more to come to its end by itself.
_SECONDS_TO_END = 10.0
_SECONDS_FOR_WORDS = 8.0


@dataclass(frozen=True)
class ExitReport:
    """Why a process ended; `is_secondary_failure` if only because others had, or because somebody stopped it."""

    what: str
    advice: str = ""
    cause: Cause = "error"
    exit_code: int = 1
    trace: str = ""  # of a bug
    is_secondary_failure: bool = False

    @classmethod
    def of(cls, error: BaseException) -> ExitReport:
        """Return what is to be told of an error."""
        mishap = error if isinstance(error, FinetuneError) else out_of_memory_error(error)
        echo, cause = is_stop(error) or is_secondary_failure(error), cause_of(error)
        if mishap is not None:
            return cls(mishap.what, mishap.advice, cause, mishap.exit_code, is_secondary_failure=echo)
        what = traceback.format_exception_only(error)[-1].strip()
        return cls(what, "", cause, 1, "".join(traceback.format_exception(error)), echo)


class Rendezvous:
    """The other processes of a run, seen from the one at `place`.

    `gone` tells which of them have ended without a word, by their rank, in a few words each.
    """

    def __init__(self, store: TCPStore, place: RankInfo) -> None:
        self.place = place
        self._tcp, self._store = store, _ours(store)
        self._over = threading.Event()  # this process is about to end, or the run has
        self.gone: Callable[[], dict[int, str]] = self._ended_on_this_machine
        self.tell(f"process/{place.rank}", f"{_machine()} {os.getpid()}")

    def tell(self, key: str, value: str) -> None:
        """Have the others know something."""
        self._store.set(key, os.fsencode(value))  # type: ignore[arg-type]

    def hear(self, key: str) -> str:
        """Return what another process tells under this key; waits for it."""
        while not self._store.check([key]):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return os.fsdecode(self._store.get(key))

    def finish(self) -> None:
        """Tell the others that the run is finished, and wait a little until they hear it: the store ends with this."""
        self.tell("finished", "")
        keys = [f"heard/{rank}" for rank in range(self.place.world) if rank != self.place.rank]
        self._wait(keys, _TO_BE_HEARD)

    def wait_for_finish(self) -> None:
        """Wait until the first process has finished the run."""
        self.hear("finished")
        with contextlib.suppress(RuntimeError, ConnectionError):
            self.tell(f"heard/{self.place.rank}", "")

    def end(self, ending: ExitReport) -> None:
        """Tell the others why this process ends, if there is anybody to listen."""
        self._over.set()
        with contextlib.suppress(RuntimeError, ConnectionError):
            self.tell(f"ending/{self.place.rank}", json.dumps(asdict(ending)))

    def missing(self) -> list[int]:
        """Return the ranks of the processes that have not come yet."""
        return [rank for rank in range(self.place.world) if not self._store.check([f"process/{rank}"])]

    def _wait(self, keys: list[str], patience: timedelta) -> None:
        until = time.monotonic() + patience.total_seconds()
        with contextlib.suppress(RuntimeError, ConnectionError):
            while not self._store.check(keys) and time.monotonic() < until:
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def truth(self, error: BaseException) -> BaseException:
        """Return what ended the run, seen from a process that `error` ended."""
        self._over.set()
        if not (is_stop(error) or is_secondary_failure(error)):
            return error
        # Who is stopped is stopped by somebody, unless another has failed already.
        patience = time.monotonic() + (0 if is_stop(error) else _SECONDS_FOR_WORDS)
        while (failure := self._failure()) is None and time.monotonic() < patience:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if failure is not None:
            return failure
        if not is_stop(error) and (stopped := self._stopped()) is not None:
            return stopped
        if cause_of(error) == "node lost":
            what = "Another process of this run is gone without a word: it was killed, or its machine was lost."
            return RemoteRankError(what, "", "node lost")
        return error

    @contextlib.contextmanager
    def watched(self, end: Callable[[RemoteRankError], None]) -> Iterator[None]:
        """Look after the others while this lasts: if one has ended and this process does not end too, `end` ends it.

        Whoever waits for a process that is not there any more may wait for long, and hear nothing of signals.
        """
        mine = _ours(self._tcp.clone())  # type: ignore[attr-defined]
        threading.Thread(target=self._watch, args=(mine, end), daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _watch(self, store: Store, end: Callable[[RemoteRankError], None]) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                failure = self._failure(store)
            except (RuntimeError, ConnectionError):
                failure = RemoteRankError("The first process of this run is gone.", "", "node lost")
            if failure is not None:
                if not self._over.wait(_SECONDS_TO_END):
                    end(failure)
                return

    def _failure(self, store: Store | None = None) -> RemoteRankError | None:
        """Return what ended another process, if it was not only that others had ended."""
        store = store or self._store
        gone = self.gone()  # first: who is seen to be gone has told before what there is to tell
        told = {rank: ending for rank in range(self.place.world) if (ending := _told(store, rank)) is not None}
        for rank, ending in told.items():
            if rank != self.place.rank and not ending.is_secondary_failure:
                what = f"process {rank}: {ending.what}"
                return RemoteRankError(what, ending.advice, ending.cause, ending.exit_code, ending.trace)
        for rank, how in gone.items():
            if rank not in told:
                what = f"process {rank} {how}."
                return (
                    RemoteRankError(what, _OF_KILLED, "killed")
                    if "killed" in how
                    else RemoteRankError(what, "", "error")
                )
        return None

    def _stopped(self) -> RemoteRankError | None:
        """Return that another process was stopped, by a signal that this one has not got."""
        for rank in range(self.place.world):
            ending = _told(self._store, rank)
            if rank != self.place.rank and ending is not None and ending.cause == "stopped":
                return RemoteRankError(f"process {rank} was stopped: {ending.what}", ending.advice, "stopped")
        return None

    def _ended_on_this_machine(self) -> dict[int, str]:
        """Return the processes on this machine that are not there any more."""
        found = {}
        for rank in range(self.place.world):
            if rank != self.place.rank and self._store.check([f"process/{rank}"]):
                machine, pid = self._store.get(f"process/{rank}").decode().rsplit(" ", 1)
                if machine == _machine() and not _lives(int(pid)):
                    found[rank] = "was killed"
        return found


_OF_KILLED = "The system kills processes when memory runs out; whoever watches over a machine may do so too."


def _ours(store: TCPStore) -> Store:
    """Return the part of a store in which nobody else writes, nor did before torchrun started all anew."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    return PrefixStore(f"finetune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _machine() -> str:
    """Return what tells where the number of a process means this process; names of machines may be the same."""
    try:
        boot, namespace = (
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            Path("/proc/self/ns/pid").readlink(),
        )
    except OSError:
        return socket.gethostname()
    return f"{boot} {namespace}"


def _told(store: Store, rank: int) -> ExitReport | None:
    key = f"ending/{rank}"
    return ExitReport(**json.loads(store.get(key))) if store.check([key]) else None


def _lives(pid: int) -> bool:
    try:
        # A process that has ended is there until its parent asks: its state, behind its name, is Z.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
