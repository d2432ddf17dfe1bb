"""One run: check everything, set up its directory, start the other ranks, train."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from finetune import ranks, streams
from finetune.config.command_line import Arguments
from finetune.console import exit_on_closed_pipe, log, print_error, say
from finetune.errors import FinetuneError
from finetune.preflight.check import CheckedRun, check_not_dry, check_run, check_single_run
from finetune.preflight.devices import check_start, local_processes
from finetune.preflight.evaluators import write_left_out_rows
from finetune.preflight.models import download_missing
from finetune.runs.checkpoints import NO_CHECKPOINT
from finetune.runs.lock import adopt_inherited

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.runs.directory import RunDirectory


def run(arguments: Arguments) -> int:
    """Check a run, set up its directory, and train; the ranks other than the first take part as workers."""
    if not ranks.is_first() and not arguments.only_checks:
        from finetune.runner.worker import run_worker

        return run_worker(arguments)
    adopt_inherited()
    try:
        checked = _check(arguments)
    except FinetuneError as error:
        print_error(error)  # before the other ranks are waited for
        if not arguments.only_checks:
            _report(error)
        return error.exit_code
    except BaseException as error:
        _report(error)
        raise
    if not checked.cfg.check:
        _start(checked)
    return 0


def _report(error: BaseException) -> None:
    """Report an error to the other ranks, if there are any; most runs are one process and need none of this."""
    if ranks.current_rank().world > 1:
        from finetune.runner.join import report_before_join

        report_before_join(error)


def _check(arguments: Arguments) -> CheckedRun:
    """Check a run, and download its models unless only the check was asked for.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    check_single_run(arguments)
    checked = check_run(arguments)
    print_check(checked)
    if not checked.cfg.check:
        check_not_dry(checked)
        check_start(checked.cfg)
        download_missing(checked.cfg)  # before there is a run that could fail because of it
    return checked


def print_check(checked: CheckedRun) -> None:
    """Print the notes of a check and, if only the check was asked for, that nothing is wrong."""
    cfg, dataset = checked.cfg, checked.dataset
    if not cfg.dry_run:
        for note in checked.notes:
            say(note)
    if not cfg.check:
        return
    exit_on_closed_pipe()
    for name in checked.missing_models:
        say(f"{name} is not on this machine; a run would download it from the hub.")
    listing = write_left_out_rows([dataset.problems])
    if listing is not None:
        say(f"The skipped rows are listed in {listing}.")
    say("The config and the data are fine; nothing was started.", style="bold green")
    from finetune.report.formatting import format_facts

    for name, text in format_facts(dataset.facts):
        say(f"  {name}: {text}")


def _start(checked: CheckedRun) -> None:
    """Train in this process, with the other ranks in processes of their own."""
    from finetune.runner.hydra_task import run_as_hydra_task
    from finetune.runner.join import join_if_distributed
    from finetune.runner.lifecycle import exit_at_once, run_lifecycle
    from finetune.runner.rank_output import record_crashes
    from finetune.runner.run_setup import find_run
    from finetune.runner.spawn import SpawnedRanks

    arguments, cfg, dataset = checked.arguments, checked.cfg, checked.dataset
    rendezvous = join_if_distributed(local_processes(cfg))
    run, existed = find_run(cfg, arguments.overrides, dataset, arguments)
    has_run_before = run.log_path.is_file()  # who submits a run creates its directory, but not its log
    arguments = arguments.in_folder(run.path)
    if rendezvous is not None:
        rendezvous.collective_timeout = timedelta(minutes=cfg.collective_timeout)
    try:
        with SpawnedRanks(rendezvous) as spawned, run_lifecycle(run, existed, rendezvous):
            if rendezvous is not None:
                rendezvous.set("run", str(run.path.absolute()))
                record_crashes(run, rank=0)
            spawned.start([*arguments.where(), *arguments.overrides])
            run_as_hydra_task(arguments, [], lambda cfg: _train(cfg, checked, run, existed, has_run_before))
    except BaseException as error:
        if rendezvous is not None and streams.is_program():
            exit_at_once(error)
        raise


def _train(cfg: DictConfig, checked: CheckedRun, run: RunDirectory, existed: bool, has_run_before: bool) -> None:
    """Train a new run, or resume one whose directory `existed`."""
    from finetune.runner.run_setup import newest_checkpoint, record_time_limit
    from finetune.runner.slurm_job import is_restart
    from finetune.training.fit import fit

    checkpoint = None
    if existed:
        resume = cfg.resume
        if is_restart():  # a checkpoint that the user chose is where the job started, not where it resumes
            resume = "auto"
        checkpoint = newest_checkpoint(run, resume)
        if checkpoint is None and has_run_before:
            say(NO_CHECKPOINT)
        record_time_limit(cfg, run)
    for note in checked.notes:
        log(note)  # they were printed before there was a run
    fit(cfg, checked.dataset, run, checkpoint)
