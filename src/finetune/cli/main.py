"""From a command line to what it asks for: printing something, one run, or a sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import finetune
from finetune import ranks
from finetune.cli.errors import exit_code_of
from finetune.cli.show import show
from finetune.config import resolvers
from finetune.config.command_line import Arguments, parse
from finetune.console import say
from finetune.errors import FinetuneError
from finetune.runner.run import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code: 0, 2 for a mistake in it, 1 for a failed run."""
    resolvers.reset_moment()
    words = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _run_command(parse(words)))


def _run_command(arguments: Arguments) -> int:
    if "--version" in arguments.show:
        say(f"finetune {finetune.__version__}")
        return 0
    if arguments.show:
        if not ranks.should_print():
            return 0  # another process of this run prints it
        return show(arguments)
    if arguments.multirun:
        if ranks.current_rank().world > 1:
            raise FinetuneError("A sweep starts its own processes.", "Start it without torchrun or srun.")
        from finetune.sweep.sweep import sweep

        return sweep(arguments)
    return run(arguments)
