"""What flags such as --cfg and --help print."""

from __future__ import annotations

from finetune.config.check import check
from finetune.config.command_line import Arguments
from finetune.config.compose import compose
from finetune.console import end_quietly_without_a_reader, say
from finetune.errors import CheckFailed
from finetune.runner.hydra_task import run_as_hydra_task


def show(arguments: Arguments) -> int:
    """Print what was asked for with a flag, such as --cfg, and return the exit code."""
    end_quietly_without_a_reader()
    if "--help" in arguments.show:
        from finetune.cli.help import help_text

        say(help_text(arguments))
        return 0
    if not {"--hydra-help", "--shell-completion"} & set(arguments.show):
        _check_showable(arguments)
    try:
        run_as_hydra_task(arguments, arguments.show, lambda _: None)
    except SystemExit as shown:  # Hydra ends the process when it has printed its help
        return shown.code if isinstance(shown.code, int) else 0
    return 0


def _check_showable(arguments: Arguments) -> None:
    """Refuse what cannot be composed, or not be resolved; anything else that is wrong may be what one wants to see.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    where = arguments.overrides, arguments.config_dir, arguments.config_name
    try:
        compose(*where)
    except CheckFailed:
        check(*where)
        raise
    if "--resolve" in arguments.show:
        check(*where)
