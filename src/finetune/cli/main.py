"""What a command line asks for: printing something, one run, or a sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import finetune
from finetune import ranks
from finetune.cli.show import show
from finetune.config import resolvers
from finetune.config.command_line import Arguments, parse
from finetune.console import say
from finetune.errors import FinetuneError
from finetune.exit_codes import exit_code_of
from finetune.runner.run import run

if TYPE_CHECKING:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code: 0, 2 for a mistake in it, 1 for a failed run."""
    resolvers.begin()
    return exit_code_of(lambda: _do(parse(sys.argv[1:] if argv is None else argv)))


def _do(arguments: Arguments) -> int:
    if "--version" in arguments.show:
        say(f"finetune {finetune.__version__}")
        return 0
    if arguments.show:
        return show(arguments) if ranks.should_print() else 0
    if arguments.multirun:
        if ranks.current_rank().world > 1:
            raise FinetuneError("A sweep starts its own processes.", "Start it without torchrun or srun.")
        from finetune.sweep.sweep import sweep

        return sweep(arguments)
    return run(arguments)
