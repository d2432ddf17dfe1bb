"""One run: check everything, set up its directory, start the other ranks, train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune import ranks
from finetune.config.check import with_locations
from finetune.config.command_line import Arguments, is_cluster_override, is_sweep_override
from finetune.console import exit_on_closed_pipe, log, print_error, say
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.preflight.check import CheckedRun, check_run
from finetune.preflight.devices import check_start, processes_here
from finetune.preflight.evaluators import (
    write_left_out_rows,
)
from finetune.preflight.models import (
    download_missing,
)
from finetune.runner.hydra_task import run_as_hydra_task
from finetune.runner.join import join_if_distributed, report_before_join
from finetune.runner.lifecycle import run_lifecycle
from finetune.runner.run_setup import checkpoint_of, find_run, record_time_limit
from finetune.runner.slurm_job import is_restart
from finetune.runner.spawn import SpawnedRanks
from finetune.runs.checkpoints import NO_CHECKPOINT

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset
    from finetune.runs.directory import RunDirectory


def run(arguments: Arguments) -> int:
    """Check a run, set up its directory, and train; the ranks other than the first take part as workers."""
    if not ranks.is_first() and not arguments.only_checks:
        from finetune.runner.worker import run_worker

        return run_worker(arguments)
    try:
        checked = _checked(arguments)
    except FinetuneError as error:
        print_error(error)  # before the other ranks are waited for
        if not arguments.only_checks:
            report_before_join(error)
        return error.exit_code
    except BaseException as error:
        report_before_join(error)
        raise
    if checked is not None:
        _start(checked)
    return 0


def _start(checked: CheckedRun) -> None:
    arguments, cfg, dataset = checked.arguments, checked.cfg, checked.dataset
    peers = join_if_distributed(processes_here(cfg))
    run, is_resumed = find_run(cfg, arguments.overrides, dataset, arguments)
    arguments = arguments.in_folder(run.path)
    with SpawnedRanks(peers) as others, run_lifecycle(run, is_resumed, peers):
        if peers is not None:
            peers.tell("run", str(run.path.absolute()))
        others.start([*arguments.where(), *arguments.overrides])
        run_as_hydra_task(arguments, [], lambda cfg: _train(cfg, dataset, run, is_resumed=is_resumed))


def _checked(arguments: Arguments) -> CheckedRun | None:
    """Return what is to be trained, or None if only the check was asked for.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    if of_a_sweep := [text for text in arguments.overrides if is_sweep_override(text)]:
        what = "this is an option of a sweep, and this is a single run."
        raise CheckFailed(Problem(text, what, "Leave it out, or add -m.") for text in of_a_sweep)
    if of_a_cluster := [text for text in arguments.overrides if is_cluster_override(text)]:
        what = "this is an option of a cluster, and this is a run on this machine."
        raise CheckFailed(Problem(text, what, "Leave it out, or use finetune submit.") for text in of_a_cluster)
    checked = check_run(arguments)
    report_check(checked)
    cfg = checked.cfg
    if cfg.check:
        return None
    arguments = checked.arguments
    if cfg.dry_run:
        what = "there is no job's script to show: this is a run on this machine."
        problems = [Problem("dry_run", what, "Use finetune submit, or write dry_run=false.")]
        raise CheckFailed(with_locations(problems, arguments.overrides, arguments.config_dir, arguments.config_name))
    check_start(cfg)
    download_missing(cfg)  # downloads what is not here yet, before there is a run that could fail for it
    return checked


def report_check(checked: CheckedRun) -> None:
    """Print the notes of a check and, where only the check was asked for, that nothing is wrong."""
    cfg, dataset = checked.cfg, checked.dataset
    for note in checked.notes if not cfg.dry_run else ():
        say(note)
    if not cfg.check:
        return
    exit_on_closed_pipe()
    for name in checked.missing_models:
        say(f"{name} is not on this machine; a run would fetch it from the hub.")
    write_left_out_rows([dataset.problems])
    _say_fine(dataset)


def _train(cfg: DictConfig, dataset: Dataset, run: RunDirectory, *, is_resumed: bool) -> None:
    """Train a new run, or resume one."""
    checkpoint = None
    if is_resumed:
        # A checkpoint that was chosen is where a job began, not where it resumes.
        checkpoint = checkpoint_of(run, "auto" if is_restart() else cfg.resume)
        if checkpoint is None:
            say(NO_CHECKPOINT)
        record_time_limit(cfg, run)
    for note in dataset.notes:
        log(note)  # they were printed before there was a run
    from finetune.training.fit import fit

    fit(cfg, dataset, run, checkpoint)


def _say_fine(dataset: Dataset) -> None:
    say("The config and the data are fine; nothing was started.", style="bold green")
    for name, value in dataset.facts.items():
        say(
            f"  {name.replace('_', ' ')}: {value:,}"
            if isinstance(value, int)
            else f"  {name.replace('_', ' ')}: {value}"
        )
