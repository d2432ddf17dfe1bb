"""A process of a run that is not the first: it goes the same way, and tells the first one alone what becomes of it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import NoReturn

from finetune import interrupts, processes
from finetune.console import alert, be_quiet
from finetune.errors import FinetuneError
from finetune.launch.arguments import Arguments
from finetune.launch.entry import check_all, start_hydra
from finetune.launch.meeting import PATIENCE, meet
from finetune.launch.others import end_with_the_first
from finetune.launch.peers import Ending, Peers
from finetune.launch.resume import restore_moment
from finetune.runs.causes import Elsewhere
from finetune.runs.directory import RunDirectory


def follow(arguments: Arguments) -> int:
    """Take part in a run to its end; what ends it before is told to the first process, which says and writes it."""
    here, met = processes.place(), list[Peers]()
    if here.starter == "the first process":
        end_with_the_first()
    be_quiet()
    interrupts.listen(interrupts.STOPS, interrupts.raise_stop)
    try:
        arguments, cfg, dataset = check_all(arguments)
        if cfg.check:
            return 0
        peers = meet(here)
        met.append(peers)
        run = _shared(Path(peers.hear("run")))
        with peers.watched(_end_at_once):
            from finetune.training.fit import fit

            restore_moment(run)
            start_hydra(arguments.in_folder(run.path), [], lambda cfg: fit(cfg, dataset, run))
            peers.hear_the_end()
    except BaseException as error:
        _end(error, met)
    return 0


def _shared(path: Path) -> RunDirectory:
    if not path.is_dir():
        what = f"the run directory {path} is not there on {socket.gethostname()}."
        raise FinetuneError(what, "The machines of a run must share the folder of its outputs: set output_root=...")
    return RunDirectory(path)


def _end(error: BaseException, met: list[Peers]) -> NoReturn:
    # A second signal must not keep this process from telling the others and ending.
    interrupts.listen(interrupts.ALL, signal.SIG_IGN)
    ending = Ending.of(error)
    try:
        (met or [meet(processes.place(), PATIENCE)])[0].end(ending)
    except (FinetuneError, RuntimeError):  # nobody is there to say it
        if not met and not ending.is_echo:
            alert(ending.trace or f"{ending.what}\n{ending.advice}")
    # Without the ends of libraries, which may wait for others that are gone.
    os._exit(ending.exit_code)


def _end_at_once(_why: Elsewhere) -> None:
    os._exit(1)
