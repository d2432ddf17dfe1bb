"""Messages between the processes of a run besides its tensors: where the run is, and why one of them ended.

They go through torch's TCPStore at MASTER_ADDR and MASTER_PORT, which the process group uses too; `join.py` connects.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import signals
from finetune.console import alert
from finetune.errors import FinetuneError
from finetune.ranks import RankInfo
from finetune.runner.liveness import KILLED, MACHINE_LOST, Connection, Listener
from finetune.runner.stall import StallDetector
from finetune.runs.failure_causes import (
    Cause,
    RankGone,
    RemoteRankError,
    cause_of,
    explained_error,
    is_secondary_failure,
    is_stop,
)
from finetune.wait_notice import MAX_WAIT

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

_ACKNOWLEDGE_TIMEOUT = timedelta(seconds=5)
_POLL_SECONDS = 0.2
# A process whose library reports the end of another one needs no more to end by itself.
_SECONDS_TO_END = 10.0
_SECONDS_FOR_REPORT = 8.0
_FIRST_IS_GONE = "The first process of this run is gone."
_ABOUT_KILLED = "The system kills processes when memory runs out; a monitor of the machine may do so too."
# The signals of a process that does something invalid itself.
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


@dataclass(frozen=True)
class ExitReport:
    """Why a process ended; `is_secondary_failure` if only because others had ended, or because it was stopped.

    `rank` is the process whose failure it is, if that is another one.
    """

    what: str
    advice: str = ""
    cause: Cause = "error"
    exit_code: int = 1
    trace: str = ""  # of a bug
    is_secondary_failure: bool = False
    rank: int | None = None

    @classmethod
    def of(cls, error: BaseException) -> ExitReport:
        """Return the report of a process that `error` ended."""
        known = error if isinstance(error, FinetuneError) else explained_error(error)
        is_secondary, cause = is_stop(error) or is_secondary_failure(error), cause_of(error)
        if known is not None:
            rank = error.rank if isinstance(error, RemoteRankError) else None
            return cls(known.what, known.advice, cause, known.exit_code, known.trace, is_secondary, rank)
        if isinstance(error, KeyboardInterrupt):
            number = getattr(error, "number", signal.SIGINT)
            return cls(f"Stopped by {signals.display_name(number)}.", "", cause, 1, is_secondary_failure=is_secondary)
        what = traceback.format_exception_only(error)[-1].strip()
        return cls(what, "", cause, 1, "".join(traceback.format_exception(error)), is_secondary)


class Rendezvous:
    """The other processes of a run, as seen from the one with the rank in `info`.

    `exited` returns those that ended without a report: by rank, how they ended in a few words. `kill` kills those that
    this process has started.
    """

    def __init__(self, store: TCPStore, info: RankInfo) -> None:
        self.info = info
        self.collective_timeout = MAX_WAIT
        self._listener: Listener | None = None
        self._tcp, self._store = store, _own_part(store)
        self._is_ending = threading.Event()  # this process is about to end, or the run has ended
        self.exited: Callable[[], dict[int, str]] = self._find_exited
        self.kill: Callable[[], None] = lambda: None
        self.set(f"process/{info.rank}", f"{_machine()} {os.getpid()}")

    def set(self, key: str, value: str) -> None:
        """Set a value for the other processes."""
        self._store.set(key, os.fsencode(value))  # type: ignore[arg-type]

    def get(self, key: str) -> str:
        """Return the value that another process sets under this key; waits for it."""
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        return os.fsdecode(self._store.get(key))

    def finish(self) -> None:
        """Report that the run is finished, and wait a little until the others have read it: then the store ends."""
        self.set("finished", "")
        keys = [f"heard/{rank}" for rank in self._other_ranks()]
        end = time.monotonic() + _ACKNOWLEDGE_TIMEOUT.total_seconds()
        with contextlib.suppress(RuntimeError, ConnectionError):
            while not self._store.check(keys) and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)

    def wait_for_finish(self) -> None:
        """Wait until the first process has finished the run."""
        self.get("finished")
        with contextlib.suppress(RuntimeError, ConnectionError):
            self.set(f"heard/{self.info.rank}", "")

    def end(self, report: ExitReport) -> None:
        """Report why this process ends, if the store still exists."""
        self._is_ending.set()
        with contextlib.suppress(RuntimeError, ConnectionError):
            self.set(f"ending/{self.info.rank}", json.dumps(asdict(report)))

    def missing(self) -> list[int]:
        """Return the ranks of the processes that have not joined yet."""
        return [rank for rank in range(self.info.world) if not self._store.check([f"process/{rank}"])]

    def root_cause(self, error: BaseException) -> BaseException:
        """Return the error that ended the run, given the `error` that ended this process."""
        self._is_ending.set()
        if not (is_stop(error) or is_secondary_failure(error)):
            return error
        if is_stop(error):  # unless another process has failed already
            return self._failure(self._store) or error
        failure = self._wait_for_failure(_SECONDS_FOR_REPORT)
        if failure is not None:
            return failure
        stopped = self._stopped()
        if stopped is not None:
            return stopped
        if cause_of(error) == "node lost":
            what = "Another process of this run ended without a report: it was killed, or its machine was lost."
            return RemoteRankError(what, "", "node lost")
        return error

    @contextlib.contextmanager
    def watched(self, end: Callable[[RemoteRankError], None]) -> Iterator[None]:
        """Watch the other processes inside the `with`; if one has failed and this process does not end, call `end`.

        A process that waits for one that has ended may wait for a long time without handling signals.
        """
        store = _own_part(self._tcp.clone())  # type: ignore[attr-defined]
        threading.Thread(target=self._watch, args=(store, end), daemon=True).start()
        connection = self._connect()
        if connection is not None:
            threading.Thread(target=self._watch_first, args=(connection, end), daemon=True).start()
        try:
            yield
        finally:
            self._is_ending.set()

    def _connect(self) -> Connection | None:
        """Connect a process on another machine to the first one; return the connection, in the first process None."""
        if self.info.machines == 1:
            return None
        if self.info.rank == 0:
            self._listener = Listener()
            self.set("listener", self._listener.invitation)
            return None
        try:
            return Connection(os.environ["MASTER_ADDR"], self.get("listener"), self.info.rank)
        except OSError as error:  # a firewall: then only the libraries notice that a machine is lost
            alert(f"Process {self.info.rank} will not notice at once if the machine of process 0 is lost: {error}")
            return None

    def _watch(self, store: Store, end: Callable[[RemoteRankError], None]) -> None:
        detector = StallDetector(store, self.info.rank, self.info.world, self.collective_timeout)
        while not self._is_ending.wait(_POLL_SECONDS):
            try:
                failure = self._failure(store) or detector.check()
            except (RuntimeError, ConnectionError):
                failure = RemoteRankError(_FIRST_IS_GONE, "", "node lost")
            if failure is not None:
                self._end_soon(store, failure, end)
                return

    def _watch_first(self, connection: Connection, end: Callable[[RemoteRankError], None]) -> None:
        """Wait until the first process is gone; the store, which it hosts, may not answer then for a long time."""
        connection.wait_for_end()
        if not self._is_ending.wait(_SECONDS_TO_END):
            end(RemoteRankError(_FIRST_IS_GONE, "", "node lost"))

    def _end_soon(self, store: Store, failure: RemoteRankError, end: Callable[[RemoteRankError], None]) -> None:
        """Report the failure of another process to all, so that they end at the same time, and call `end`."""
        with contextlib.suppress(RuntimeError, ConnectionError):
            store.set("failure", json.dumps(asdict(ExitReport.of(failure))))
        seconds = _SECONDS_TO_END
        if failure.cause in ("timeout", "node lost"):  # of which no library finds out soon
            seconds = 0
        if not self._is_ending.wait(seconds):
            end(failure)

    def _wait_for_failure(self, seconds: float) -> RemoteRankError | None:
        """Return the failure of another process, which may still be writing its report."""
        end = time.monotonic() + seconds
        while True:
            failure = self._failure(self._store)
            if failure is not None or time.monotonic() >= end:
                return failure
            time.sleep(_POLL_SECONDS)

    def _failure(self, store: Store) -> RemoteRankError | None:
        """Return what ended another process, if that was not only the end of others."""
        exited = self.exited()  # first: a process that has exited has written its report before
        reports = {rank: _read_report(store, f"ending/{rank}") for rank in range(self.info.world)}
        for rank in self._other_ranks():
            report = reports[rank]
            if report is not None and not report.is_secondary_failure:
                what = f"process {rank}: {report.what}"
                return RemoteRankError(what, report.advice, report.cause, report.exit_code, report.trace, rank)
        without_report = {rank: how for rank, how in exited.items() if reports[rank] is None}
        killed = [_gone(rank, how) for rank, how in without_report.items() if "killed" in how]
        found = _read_report(store, "failure")  # by another process, which ends because of it
        if found is not None and not killed:
            return RemoteRankError(found.what, found.advice, found.cause, found.exit_code, found.trace, found.rank)
        others = [_gone(rank, how) for rank, how in without_report.items() if "killed" not in how]
        return next(iter(killed + others), None)

    def _stopped(self) -> RemoteRankError | None:
        """Return that another process was stopped by a signal that this one did not get."""
        for rank in self._other_ranks():
            report = _read_report(self._store, f"ending/{rank}")
            if report is not None and report.cause == "stopped":
                what = f"process {rank} was stopped: {report.what}"
                if report.what.startswith("Stopped by "):
                    what = f"process {rank} was stopped by {report.what.removeprefix('Stopped by ')}"
                return RemoteRankError(what, report.advice, "stopped")
        return None

    def _find_exited(self) -> dict[int, str]:
        """Return the processes that do not exist any more, as far as can be seen from here."""
        found = self._listener.ended() if self._listener is not None else {}
        for rank in self._other_ranks():
            if self._store.check([f"process/{rank}"]):
                machine, pid = self._store.get(f"process/{rank}").decode().rsplit(" ", 1)
                if machine == _machine() and not _is_alive(int(pid)):
                    found[rank] = KILLED
        return found

    def _other_ranks(self) -> list[int]:
        return [rank for rank in range(self.info.world) if rank != self.info.rank]


def _gone(rank: int, how: str) -> RankGone:
    what = f"process {rank} {how}."
    if how.endswith(_CRASHES):
        return RankGone(what, "It crashed in native code; its output shows where.", "error", rank=rank)
    if "killed" in how:
        return RankGone(what, _ABOUT_KILLED, "killed", rank=rank)
    if how == MACHINE_LOST:
        return RankGone(what, "", "node lost", rank=rank)
    return RankGone(what, "", "error", rank=rank)


def _own_part(store: TCPStore) -> Store:
    """Return a part of the store in which no library writes, and which is empty after a restart by torchrun."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    return PrefixStore(f"finetune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _machine() -> str:
    """Return what identifies where a process id is valid; names of machines may be the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return socket.gethostname()
    return f"{boot} {namespace}"


def _read_report(store: Store, key: str) -> ExitReport | None:
    if not store.check([key]):
        return None
    return ExitReport(**json.loads(store.get(key)))


def _is_alive(pid: int) -> bool:
    try:
        # A process that has ended exists until its parent waits for it: its state, behind its name, is Z.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
