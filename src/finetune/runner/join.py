"""How the processes of a run connect: through a TCPStore at MASTER_ADDR and MASTER_PORT.

torchrun or the first process hosts the store. All waiting is done in Python: inside torch's C++ code signals are not
handled. A process that waits for more than some seconds prints for what, where, and what to do.
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
from finetune.wait_notice import MAX_WAIT, POLL_SECONDS, WaitNotice, wait_for_all

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

T = TypeVar("T")

_LOCALHOST = "127.0.0.1"
_SLURM_PORT = 15000  # plus the last four digits of the job: the same for its processes, and rarely for two jobs
JOIN_TIMEOUT = timedelta(seconds=20)  # to report what ended this process before it joined; to resolve a name
_CONNECT_TIMEOUT = timedelta(seconds=2)  # of one attempt


def join_if_distributed(count: int) -> Rendezvous | None:
    """Return the rendezvous of a run of `count` processes on this machine; None if this process is the only one.

    If torchrun or srun started this process as one of several, it waits until all of those have joined.

    Raises:
        RunError: they cannot connect, or do not.
    """
    info = ranks.current_rank()
    if info.world > 1:
        rendezvous = join(info)
        wait_for_all(rendezvous.missing, info, MAX_WAIT)
        return rendezvous
    ranks.remove_rank_variables()
    if count <= 1:
        return None
    return host_on_this_machine(count)


def join(info: RankInfo, timeout: timedelta = MAX_WAIT) -> Rendezvous:
    """Connect to the other processes of the run that were started with this one.

    Raises:
        RunError: the first of them cannot be reached within `timeout`.
    """
    host = os.environ.get("MASTER_ADDR") or _first_host_of_job()
    port = ranks.env_int("MASTER_PORT") or _SLURM_PORT + int(os.environ.get("SLURM_JOB_ID", "0")[-4:])
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    ranks.set_rank_variables(info)
    is_host = info.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    what = f"Process {info.rank} waits for process 0 of its run at {host}:{port}. {info.advice_if_alone}"
    return Rendezvous(connect_store(host, port, is_host, timeout, WaitNotice(lambda: what)), info)


def report_before_join(error: BaseException) -> None:
    """Report to the other processes, started by srun, that the first one has ended before it joined them.

    They look for it until it answers, which may take long. A signal that stopped it has reached them too.
    """
    info = ranks.current_rank()
    if info.world > 1 and info.rank == 0 and info.starter == "srun" and not is_stop(error):
        with contextlib.suppress(FinetuneError):
            rendezvous = join(info)
            rendezvous.end(ExitReport.of(error))
            wait_for_all(rendezvous.missing, info, JOIN_TIMEOUT)


def host_on_this_machine(count: int) -> Rendezvous:
    """Host the store as the first of `count` processes on this machine; the others have not been started yet."""
    notice = WaitNotice(lambda: f"Waiting for the network of this machine ({_LOCALHOST}).")
    store = connect_store(_LOCALHOST, 0, True, MAX_WAIT, notice)
    info = RankInfo(0, count, 0, count, "the first process")
    os.environ |= {"MASTER_ADDR": _LOCALHOST, "MASTER_PORT": str(store.port), ranks.STARTED_BY: str(os.getpid())}
    ranks.set_rank_variables(info)
    return Rendezvous(store, info)


def connect_store(host: str, port: int, is_host: bool, timeout: timedelta, notice: WaitNotice) -> TCPStore:
    """Return the store at an address: created here if this process `is_host`, else tried until it exists.

    Raises:
        RunError: the address cannot be used, or no process answers within `timeout`.
    """
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    def connect() -> TCPStore:
        # multi_tenant: the process group asks for a store at the same address, and gets this one.
        return TCPStore(
            host, port, is_master=is_host, timeout=_CONNECT_TIMEOUT, wait_for_workers=False, multi_tenant=True
        )

    _resolve(host, port, timedelta() if is_host else min(timeout, JOIN_TIMEOUT), notice)
    end = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            store = _in_background(connect, notice)
        except (DistError, RuntimeError) as error:
            if not is_host and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
                continue
            raise _cannot_connect(host, port, error) from error
        store.set_timeout(timeout)
        return store


def _cannot_connect(host: str, port: int, error: Exception) -> RunError:
    if "EADDRINUSE" in str(error):
        what = f"The processes of this run cannot connect: port {port} of {host} is used by another program."
        return RunError(what, "Set MASTER_PORT to a free one, the same for all processes.")
    what = f"The processes of this run cannot connect at {host}:{port}: {str(error).splitlines()[0]}"
    return RunError(what, "Set MASTER_ADDR and MASTER_PORT to where the first of them can be reached.")


def _resolve(host: str, port: int, timeout: timedelta, notice: WaitNotice) -> None:
    """Check that the name of a machine has an address.

    Raises:
        RunError: it has none within `timeout`; a cluster may need some seconds to publish it.
    """
    end = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            _in_background(lambda: socket.getaddrinfo(host, port), notice)
        except OSError as error:
            if time.monotonic() < end:
                time.sleep(POLL_SECONDS)
                continue
            what = f"The processes of this run cannot connect: the machine {host} has no address ({error.strerror})."
            raise RunError(what, "Set MASTER_ADDR to a name or address of the first process's machine.") from error
        return


def _in_background(call: Callable[[], T], notice: WaitNotice) -> T:
    """Return what `call` returns. It runs in another thread, so that this one can handle signals meanwhile."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        notice.tick()
    if errors:
        raise errors[0]
    return results[0]


def _first_host_of_job() -> str:
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or _LOCALHOST
    return str(SLURMEnvironment.resolve_root_node_address(nodes))
