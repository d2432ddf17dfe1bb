"""`finetune submit`: one run, checked here as any run is, and handed over to the cluster."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune.cli.errors import exit_code_of
from finetune.cli.show import show
from finetune.config.command_line import Arguments, is_of_the_cluster, of_the_run, parse
from finetune.console import say
from finetune.executors.slurm.sbatch import check_possible
from finetune.executors.slurm.script import Task, script
from finetune.executors.slurm.submit import pending, place, submit_job
from finetune.preflight.check import check_run
from finetune.preflight.models import fetch
from finetune.preflight.resume import LAUNCHER
from finetune.preflight.slurm import resource_request, settings_of
from finetune.runner.run import report_check
from finetune.runner.run_setup import find_run, remove_new_dirs_on_failure
from finetune.runs.environment import write_changes


def main(argv: Sequence[str]) -> int:
    """Do what `finetune submit` was told and return the exit code."""
    return exit_code_of(lambda: _do(parse(argv)))


def _do(arguments: Arguments) -> int:
    arguments = replace(arguments, overrides=[LAUNCHER, *arguments.overrides])
    if arguments.show:
        return show(arguments)
    if arguments.multirun:
        from finetune.sweep.sweep import sweep

        return sweep(replace(arguments, overrides=[*arguments.overrides, "hydra.launcher.wait=false"]))
    return _submit(arguments)


def _submit(arguments: Arguments) -> int:
    checked = check_run(arguments)
    report_check(checked)
    arguments, cfg, dataset = checked.arguments, checked.cfg, checked.dataset
    if cfg.check:
        return 0
    settings, overrides = settings_of(cfg), of_the_run(arguments.overrides)
    assert settings is not None

    def text(run: Path) -> str:
        return script([Task(run, overrides)], settings, resource_request(cfg, settings), arguments)

    if cfg.dry_run:
        say(text(place(cfg)))
        return 0
    check_possible(text(place(cfg)))
    fetch(cfg)  # a machine of the cluster may have no network
    asked = [each for each in arguments.overrides if is_of_the_cluster(each) and each != LAUNCHER]
    with remove_new_dirs_on_failure(place(cfg).parent):
        run, goes_on = find_run(cfg, overrides, dataset, arguments)
        with pending([(run, goes_on)]):
            write_changes(run.path)
            job_id = submit_job(text(run.path), [run], asked)
    say(f"job {job_id} is in the queue; run directory: {run.path}")
    named = shlex.quote(str(run.path))
    say(f"`finetune runs show {named}` shows its state, `finetune runs cancel {named}` ends it.")
    return 0
