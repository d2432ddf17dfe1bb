"""`finetune data show`: what a run would learn from, without starting one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from finetune import signals
from finetune.config.build import build
from finetune.config.command_line import Arguments, parse
from finetune.console import console
from finetune.errors import CheckFailed, FinetuneError
from finetune.exit_codes import exit_code_of
from finetune.models.resolve import find_here
from finetune.preflight.check import check_fit, check_quickly, check_run
from finetune.runner.run import print_check

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(argv: Sequence[str], *, as_json: bool) -> int:
    """Print everything about the data that these overrides name; returns the exit code, 2 for a mistake in them."""
    return exit_code_of(lambda: _show(parse(argv), as_json=as_json))


def _show(arguments: Arguments, *, as_json: bool) -> int:
    if arguments.multirun or arguments.show:
        flag = "-m" if arguments.multirun else arguments.show[0]
        raise FinetuneError(f"data show does not take {flag}.", "It takes the overrides of one run: key=value.")
    with silent(as_json):
        facts = gather(arguments)
    if facts is None and not as_json:
        return 0
    facts = facts or {}
    if as_json:
        # ASCII, so that no terminal and no encoding stands in the way of what is in somebody's data.
        sys.stdout.write(json.dumps(facts, indent=1) + "\n")
    else:
        from finetune.cli.data_tables import print_facts

        print_facts(facts, console)
    return 0


def gather(arguments: Arguments) -> dict[str, Any] | None:
    """Check the config, read all of the data and describe it, as JSON-able data; None if `check` asks for no more.

    What only training would stumble over is no mistake here: it is among the warnings.

    Raises:
        CheckFailed: with everything that is wrong.
        ModelError: the model's tokenizer is damaged.
    """
    cfg, problems = check_quickly(arguments, arguments.overrides)
    if cfg is None or problems:
        raise CheckFailed(problems)
    if cfg.check:
        print_check(check_run(arguments))
        return None
    signals.raise_on_interrupt()  # the cache that is filled here can be left tidy
    data = build(cfg.data, "data")
    dataset = data.load(cfg.seed)
    from finetune.data.inspect.describe import describe

    looked = [one.look()[1:] for one in data.each()]
    tokenizer, without = _tokenizer(cfg) if len(dataset.items.texts) else (None, "")
    facts = describe(dataset, looked, tokenizer, cfg.data.max_length, cfg.seed)
    unfit = [f"A run would stop here: {problem.what} {problem.advice}" for problem in check_fit(cfg, dataset)]
    if warnings := [*facts.get("warnings", []), *([without] if without else []), *unfit]:
        facts["warnings"] = warnings
    return facts


def _tokenizer(cfg: DictConfig) -> tuple[Any | None, str]:
    """Return the model's tokenizer if it is on this machine, else what is to be said."""
    name = cfg.model.get("name")
    folder = find_here(name, pickles=bool(cfg.model.get("allow_pickle"))) if name else None
    if folder is None:
        return None, f"{name} is not on this machine, so lengths are in characters; a run would fetch it from the hub."
    from finetune.models.tokenizer import load_tokenizer

    return load_tokenizer(folder, name), ""


@contextmanager
def silent(wanted: bool) -> Iterator[None]:
    """Keep progress and notes from standard output while what is printed there is to be read by a program."""
    before, console.quiet = console.quiet, wanted or console.quiet
    try:
        yield
    finally:
        console.quiet = before
