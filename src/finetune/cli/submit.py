"""`finetune submit`: check a run on this machine and submit it to the cluster."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune.cli.errors import exit_code_of
from finetune.cli.show import show
from finetune.config.command_line import Arguments, is_cluster_override, parse, run_overrides
from finetune.console import say
from finetune.executors.slurm.sbatch import check_possible
from finetune.executors.slurm.script import Task, script
from finetune.executors.slurm.submit import pending, place, submit_job
from finetune.preflight.check import check_run
from finetune.preflight.models import download_missing
from finetune.preflight.resume import LAUNCHER
from finetune.preflight.slurm import resource_request, settings_of
from finetune.runner.run import report_check
from finetune.runner.run_setup import find_run, remove_new_dirs_on_failure
from finetune.runs.environment import write_changes


def main(argv: Sequence[str]) -> int:
    """Submit a run or a sweep, or print what was asked for, and return the exit code."""
    return exit_code_of(lambda: _run_command(parse(argv)))


def _run_command(arguments: Arguments) -> int:
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
    settings, overrides = settings_of(cfg), run_overrides(arguments.overrides)
    assert settings is not None

    def script_text(run: Path) -> str:
        return script([Task(run, overrides)], settings, resource_request(cfg, settings), arguments)

    if cfg.dry_run:
        say(script_text(place(cfg)))
        return 0
    check_possible(script_text(place(cfg)))
    download_missing(cfg)  # a machine of the cluster may have no network
    cluster_overrides = [each for each in arguments.overrides if is_cluster_override(each) and each != LAUNCHER]
    with remove_new_dirs_on_failure(place(cfg).parent):
        run, resumes = find_run(cfg, overrides, dataset, arguments)
        with pending([(run, resumes)]):
            write_changes(run.path)
            job_id = submit_job(script_text(run.path), [run], cluster_overrides)
    say(f"job {job_id} is queued; run directory: {run.path}")
    path = shlex.quote(str(run.path))
    say(f"`finetune runs show {path}` shows its state, `finetune runs cancel {path}` ends it.")
    return 0
