"""`finetune submit`: one run, checked here as any run is, and submitted to the cluster."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from finetune.cli.errors import exit_code_of
from finetune.cli.show import show
from finetune.config.command_line import Arguments, parse
from finetune.console import say
from finetune.executors.single_run import submit_slurm
from finetune.preflight.check import check_run
from finetune.preflight.resume import LAUNCHER, expected_folder
from finetune.preflight.slurm import slurm_settings
from finetune.runner.run import print_check


def main(argv: Sequence[str]) -> int:
    """Run `finetune submit` with these arguments and return the exit code."""
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
    print_check(checked)
    cfg = checked.cfg
    if cfg.check:
        return 0
    settings = slurm_settings(cfg)
    assert settings is not None
    _, path = submit_slurm(checked, settings, expected_folder(cfg))
    if not cfg.dry_run:
        name = shlex.quote(str(path))
        say(f"`finetune runs show {name}` shows its state, `finetune runs cancel {name}` cancels it.")
    return 0
