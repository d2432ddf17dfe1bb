"""Submits one checked run without waiting for it: as a process of this machine, or as a job of a SLURM cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finetune.config.command_line import run_overrides
from finetune.console import say
from finetune.executors.base import Executor, RunRequest
from finetune.executors.from_config import processes_of
from finetune.executors.local import LocalExecutor
from finetune.executors.pending import pending
from finetune.executors.resources import Slot
from finetune.executors.slurm.executor import SlurmExecutor
from finetune.preflight.check import CheckedRun
from finetune.preflight.devices import check_start
from finetune.preflight.models import download_missing
from finetune.preflight.resume import expected_folder
from finetune.preflight.slurm import SlurmSettings, resource_request
from finetune.runner.run_setup import find_run, remove_new_dirs_on_failure
from finetune.runs.directory import RunDirectory


def submit_local(checked: CheckedRun) -> tuple[Executor, Path]:
    """Create a run's directory, start its process, and return the executor and the absolute path.

    Raises:
        FinetuneError: the directory belongs to something else or is in use, or a model cannot be downloaded.
    """
    cfg, arguments = checked.cfg, checked.arguments
    check_start(cfg)
    download_missing(cfg)  # before there is a run that could fail because of it
    executor = LocalExecutor([Slot()], arguments, prints=False)
    with remove_new_dirs_on_failure(expected_folder(cfg).parent):
        run, existed = find_run(cfg, arguments.overrides, checked.dataset, arguments)
        request = RunRequest(run.path.absolute(), arguments.overrides, processes_of(cfg))
        request = replace(request, overrides=request.overrides_to_resume())
        with pending(run, existed=existed, keeps_lock=True) as lock:
            executor.submit(request, lock)
    return executor, request.path


def submit_slurm(
    checked: CheckedRun, settings: SlurmSettings, path: Path, report: Callable[[str], None] = say
) -> tuple[Executor, Path]:
    """Submit a run as a job, or print its script if `dry_run` is set; return the executor and the run directory.

    `path` is where the run is expected to be (`expected_folder`), and whether it is absolute decides it for the result.

    Raises:
        FinetuneError: the directory belongs to something else or is in use, a model cannot be downloaded, or SLURM
            refuses the job.
    """
    cfg, arguments = checked.cfg, checked.arguments
    overrides = run_overrides(arguments.overrides)

    def claim(_request: RunRequest) -> tuple[RunDirectory, bool]:
        download_missing(cfg)  # a machine of the cluster may have no network
        run, existed = find_run(cfg, overrides, checked.dataset, arguments)
        if path.is_absolute():
            run = RunDirectory(run.path.absolute())
        return run, existed

    executor = SlurmExecutor(
        settings,
        arguments,
        resources_of=lambda _request: resource_request(cfg, settings),
        claim=claim,
        is_detached=True,
        dry_run=bool(cfg.dry_run),
        report=report,
    )
    executor.submit(RunRequest(path, overrides))
    executor.flush()
    for submitted in executor.running():
        path = submitted
    return executor, path
