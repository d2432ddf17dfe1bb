"""Flags such as --cfg and --help, which print something and start nothing."""

from __future__ import annotations

from finetune.config.check import check
from finetune.config.command_line import Arguments
from finetune.config.compose import compose
from finetune.console import exit_on_closed_pipe, say
from finetune.errors import CheckFailed


def show(arguments: Arguments) -> int:
    """Print what a flag such as --cfg asks for, and return the exit code."""
    exit_on_closed_pipe()
    if "--help" in arguments.show:
        from finetune.cli.help import help_text

        say(help_text(arguments))
        return 0
    if not {"--hydra-help", "--shell-completion"} & set(arguments.show):
        _check_showable(arguments)
    try:
        from finetune.runner.hydra_task import run_as_hydra_task

        run_as_hydra_task(arguments, arguments.show, lambda _: None)
    except SystemExit as ended:  # Hydra exits after printing its help
        if isinstance(ended.code, int):
            return ended.code
    return 0


def _check_showable(arguments: Arguments) -> None:
    """Refuse a config that cannot be composed, or with --resolve not be resolved; any other config is printed.

    Raises:
        CheckFailed: with all problems.
    """
    where = arguments.overrides, arguments.config_dir, arguments.config_name
    try:
        compose(*where)
    except CheckFailed:
        check(*where)
        raise
    if "--resolve" in arguments.show:
        check(*where)
