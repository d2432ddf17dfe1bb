"""How the processes of a run meet: at MASTER_ADDR and MASTER_PORT, in a TCPStore of torchrun or of the first process.

All waiting is done in Python: inside of torch's C++ signals are not handled. A process that waits for longer than some
seconds says for whom, where, and what to do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from finetune import ranks
from finetune.errors import FinetuneError, RunError
from finetune.ranks import RankInfo
from finetune.runner.rendezvous import ExitReport, Rendezvous
from finetune.runs.failure_causes import is_stop
from finetune.wait_notice import LONGEST, SECONDS_BETWEEN_LOOKS, Notice, wait_for_all

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

T = TypeVar("T")

_HERE = "127.0.0.1"
_SLURM_PORT = 15000  # plus the last four digits of the job: the same for its processes, and rarely for two jobs
PATIENCE = timedelta(seconds=20)  # to tell the others what ended this process before they met; for a name to resolve
_ONE_TRY = timedelta(seconds=2)


def join_if_distributed(count: int) -> Rendezvous | None:
    """Return the other processes of a run of `count` on this machine, if this is the first of several; else nothing.

    Waits until those that torchrun or srun starts have come.

    Raises:
        RunError: they cannot meet, or do not come.
    """
    here = ranks.current_rank()
    if here.world > 1:
        peers = join(here)
        wait_for_all(peers.missing, here, LONGEST)
        return peers
    ranks.be_alone()
    return host(count) if count > 1 else None


def join(here: RankInfo, patience: timedelta = LONGEST) -> Rendezvous:
    """Meet the other processes of the run that started with this one.

    Raises:
        RunError: the first of them cannot be reached within `patience`.
    """
    host = os.environ.get("MASTER_ADDR") or _first_of_job()
    port = ranks.number("MASTER_PORT") or _SLURM_PORT + int(os.environ.get("SLURM_JOB_ID", "0")[-4:])
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    ranks.settle(here)
    is_host = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    notice = Notice(lambda: f"Process {here.rank} waits for process 0 of its run at {host}:{port}. {here.if_alone}")
    return Rendezvous(store_at(host, port, is_host, patience, notice), here)


def report_before_join(error: BaseException) -> None:
    """Tell the other processes, started by srun, that the first one has ended before they met.

    They look for it until it is there, which may be for long. A signal that stopped it they have got too.
    """
    here = ranks.current_rank()
    if here.world > 1 and here.rank == 0 and here.starter == "srun" and not is_stop(error):
        with contextlib.suppress(FinetuneError):
            peers = join(here)
            peers.end(ExitReport.of(error))
            wait_for_all(peers.missing, here, PATIENCE)


def host(count: int) -> Rendezvous:
    """Be the first of `count` processes on this machine, which are yet to be started."""
    store = store_at(_HERE, 0, True, LONGEST, Notice(lambda: f"Waiting for the network of this machine ({_HERE})."))
    here = RankInfo(0, count, 0, count, "the first process")
    os.environ |= {"MASTER_ADDR": _HERE, "MASTER_PORT": str(store.port), ranks.STARTED_BY: str(os.getpid())}
    ranks.settle(here)
    return Rendezvous(store, here)


def store_at(host: str, port: int, is_host: bool, patience: timedelta, notice: Notice) -> TCPStore:
    """Return the store at an address, which this process makes if it `is_host`; otherwise it tries until it is there.

    Raises:
        RunError: the address cannot be used, or no process answers within `patience`.
    """
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    def connect() -> TCPStore:
        # multi_tenant: the process group asks for one at the same place, and gets this one.
        return TCPStore(host, port, is_master=is_host, timeout=_ONE_TRY, wait_for_workers=False, multi_tenant=True)

    _resolve(host, port, timedelta() if is_host else min(patience, PATIENCE), notice)
    until = time.monotonic() + patience.total_seconds()
    while True:
        try:
            store = _in_background(connect, notice)
        except (DistError, RuntimeError) as error:
            if not is_host and time.monotonic() < until:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                continue
            raise _cannot_meet(host, port, error) from error
        store.set_timeout(patience)
        return store


def _cannot_meet(host: str, port: int, error: Exception) -> RunError:
    if "EADDRINUSE" in str(error):
        what = f"The processes of this run cannot meet: port {port} of {host} is used by another program."
        return RunError(what, "Set MASTER_PORT to a free one, the same for all processes.")
    what = f"The processes of this run cannot meet at {host}:{port}: {str(error).splitlines()[0]}"
    return RunError(what, "Set MASTER_ADDR and MASTER_PORT to where the first of them can be reached.")


def _resolve(host: str, port: int, patience: timedelta, notice: Notice) -> None:
    """Look whether the name of a machine has an address.

    Raises:
        RunError: it has none; a cluster may need some seconds to make it known.
    """
    until = time.monotonic() + patience.total_seconds()
    while True:
        try:
            _in_background(lambda: socket.getaddrinfo(host, port), notice)
        except OSError as error:
            if time.monotonic() < until:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                continue
            what = f"The processes of this run cannot meet: the machine {host} has no address ({error.strerror})."
            raise RunError(what, "Set MASTER_ADDR to a name or address of the first process's machine.") from error
        return


def _in_background(call: Callable[[], T], notice: Notice) -> T:
    """Return what `call` returns. It runs in another thread, so that this one hears signals in the meantime."""
    found: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(SECONDS_BETWEEN_LOOKS)
        notice.tick()
    for error in errors:
        raise error
    return found[0]


def _first_of_job() -> str:
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or _HERE
    return str(SLURMEnvironment.resolve_root_node_address(nodes))
