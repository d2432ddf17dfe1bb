"""A process of a run that is not the first: it goes the same way, and tells the first one alone what becomes of it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import NoReturn

from finetune import ranks, signals
from finetune.config.command_line import Arguments
from finetune.console import alert, be_quiet
from finetune.errors import FinetuneError
from finetune.preflight.check import check_all
from finetune.preflight.resume import restore_moment
from finetune.runner.hydra_task import run_as_hydra_task
from finetune.runner.join import PATIENCE, join
from finetune.runner.rendezvous import ExitReport, Rendezvous
from finetune.runner.spawn import exit_with_parent
from finetune.runs.directory import RunDirectory
from finetune.runs.failure_causes import RemoteRankError


def run_worker(arguments: Arguments) -> int:
    """Take part in a run to its end; what ends it before is told to the first process, which says and writes it."""
    here, met = ranks.current_rank(), list[Rendezvous]()
    if here.starter == "the first process":
        exit_with_parent()
    be_quiet()
    signals.listen(signals.STOPS, signals.raise_stop)
    try:
        arguments, cfg, dataset = check_all(arguments)
        if cfg.check:
            return 0
        peers = join(here)
        met.append(peers)
        run = _shared(Path(peers.hear("run")))
        with peers.watched(_end_at_once):
            from finetune.training.fit import fit

            restore_moment(run)
            run_as_hydra_task(arguments.in_folder(run.path), [], lambda cfg: fit(cfg, dataset, run))
            peers.wait_for_finish()
    except BaseException as error:
        _end(error, met)
    return 0


def _shared(path: Path) -> RunDirectory:
    if not path.is_dir():
        what = f"the run directory {path} is not there on {socket.gethostname()}."
        raise FinetuneError(what, "The machines of a run must share the folder of its outputs: set output_root=...")
    return RunDirectory(path)


def _end(error: BaseException, met: list[Rendezvous]) -> NoReturn:
    # A second signal must not keep this process from telling the others and ending.
    signals.listen(signals.ALL, signal.SIG_IGN)
    ending = ExitReport.of(error)
    try:
        (met or [join(ranks.current_rank(), PATIENCE)])[0].end(ending)
    except (FinetuneError, RuntimeError):  # nobody is there to say it
        if not met and not ending.is_secondary_failure:
            alert(ending.trace or f"{ending.what}\n{ending.advice}")
    # Without the ends of libraries, which may wait for others that are gone.
    os._exit(ending.exit_code)


def _end_at_once(_why: RemoteRankError) -> None:
    os._exit(1)
