"""`finetune data show`: the data that a run would train on, without starting one."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from finetune import signals
from finetune.api.datasets import describe_data
from finetune.cli.errors import exit_code_of
from finetune.config.command_line import Arguments, parse
from finetune.console import console, silenced
from finetune.errors import CheckFailed, FinetuneError
from finetune.preflight.check import check_quickly, check_run
from finetune.runner.run import print_check


def main(argv: Sequence[str], *, as_json: bool) -> int:
    """Print a description of the data that these overrides select; returns the exit code, 2 for a mistake in them."""
    return exit_code_of(lambda: _show(parse(argv), as_json=as_json))


def _show(arguments: Arguments, *, as_json: bool) -> int:
    refuse_flags(arguments, "data show", "It takes the overrides of one run: key=value.")
    # Where a program expects JSON there are no notes and no progress.
    with silenced() if as_json else contextlib.nullcontext():
        facts = gather(arguments)
    if as_json:
        # ASCII only, because the data may contain characters that the terminal's encoding lacks.
        sys.stdout.write(json.dumps(facts or {}, indent=1) + "\n")
    elif facts is not None:
        from finetune.cli.data_tables import print_facts

        print_facts(facts, console)
    return 0


def refuse_flags(arguments: Arguments, command: str, advice: str) -> None:
    """Raise FinetuneError for -m and for flags such as --cfg, which only `finetune train` takes."""
    if arguments.multirun:
        raise FinetuneError(f"{command} does not take -m.", advice)
    if arguments.show:
        raise FinetuneError(f"{command} does not take {arguments.show[0]}.", advice)


def gather(arguments: Arguments) -> dict[str, Any] | None:
    """Check the config, read all of the data and return a JSON-serializable description; None for `check=true`.

    Problems that would only prevent training are warnings here.

    Raises:
        CheckFailed: with all problems.
        ModelError: the model's tokenizer is damaged.
    """
    cfg, problems = check_quickly(arguments, arguments.overrides)
    if cfg is None or problems:
        raise CheckFailed(problems)
    if cfg.check:
        print_check(check_run(arguments))
        return None
    signals.raise_on_interrupt()  # so that an unfinished cache entry is removed
    facts, _ = describe_data(cfg)
    return facts
