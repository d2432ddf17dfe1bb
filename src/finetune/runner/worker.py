"""A process of a run other than the first: it does the same work, and reports its end to the first one only."""

from __future__ import annotations

import os
import signal
import socket
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from finetune import ranks, signals
from finetune.config.command_line import Arguments
from finetune.console import alert, be_quiet
from finetune.errors import FinetuneError
from finetune.preflight.check import check_all
from finetune.preflight.resume import restore_moment
from finetune.runner.hydra_task import run_as_hydra_task
from finetune.runner.join import JOIN_TIMEOUT, join
from finetune.runner.rank_output import write_to_file
from finetune.runner.rendezvous import ExitReport, Rendezvous
from finetune.runner.spawn import exit_with_parent
from finetune.runs.directory import RunDirectory
from finetune.runs.failure_causes import RemoteRankError


def run_worker(arguments: Arguments) -> int:
    """Take part in a run to its end; an error is reported to the first process, which prints and writes it."""
    info = ranks.current_rank()
    rendezvous: Rendezvous | None = None
    if info.starter == "the first process":
        exit_with_parent()
    be_quiet()
    signals.install(signals.STOPS, signals.raise_stop)
    try:
        arguments, cfg, dataset = check_all(arguments)
        if cfg.check:
            return 0
        rendezvous = join(info)
        rendezvous.collective_timeout = timedelta(minutes=cfg.collective_timeout)
        run = _shared(Path(rendezvous.get("run")))
        write_to_file(run, info.rank)
        with rendezvous.watched(_exit_at_once):
            from finetune.training.fit import fit

            restore_moment(run)
            run_as_hydra_task(arguments.in_folder(run.path), [], lambda cfg: fit(cfg, dataset, run))
            rendezvous.wait_for_finish()
    except BaseException as error:
        _report_and_exit(error, rendezvous)
    return 0


def _shared(path: Path) -> RunDirectory:
    if not path.is_dir():
        what = f"the run directory {path} does not exist on {socket.gethostname()}."
        raise FinetuneError(what, "The machines of a run must share the folder of its outputs: set output_root=...")
    return RunDirectory(path)


def _report_and_exit(error: BaseException, rendezvous: Rendezvous | None) -> NoReturn:
    # A second signal must not keep this process from reporting and exiting.
    signals.install(signals.ALL, signal.SIG_IGN)
    report = ExitReport.of(error)
    has_joined = rendezvous is not None
    try:
        if rendezvous is None:
            rendezvous = join(ranks.current_rank(), JOIN_TIMEOUT)
        rendezvous.end(report)
    except (FinetuneError, RuntimeError):  # there is no first process that could print it
        if not has_joined and not report.is_secondary_failure:
            alert(report.trace or f"{report.what}\n{report.advice}")
    # Without the exit handlers of libraries, which may wait for processes that have ended.
    os._exit(report.exit_code)


def _exit_at_once(_error: RemoteRankError) -> None:
    os._exit(1)
