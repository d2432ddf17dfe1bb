"""`finetune data show`: the data that a run would train on, without starting one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from finetune import signals
from finetune.cli.errors import exit_code_of
from finetune.config.command_line import Arguments, parse
from finetune.console import console
from finetune.errors import CheckFailed, FinetuneError
from finetune.models.resolve import find_local
from finetune.preflight.check import check_fit, check_quickly, check_run
from finetune.runner.run import print_check

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(argv: Sequence[str], *, as_json: bool) -> int:
    """Print a description of the data that these overrides select; returns the exit code, 2 for a mistake in them."""
    return exit_code_of(lambda: _show(parse(argv), as_json=as_json))


def _show(arguments: Arguments, *, as_json: bool) -> int:
    refuse_flags(arguments, "data show", "It takes the overrides of one run: key=value.")
    with silent(as_json):
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
    from finetune.data.inspect.describe import describe
    from finetune.data.load import load
    from finetune.data.open_sources import open_sources
    from finetune.data.settings import data_settings

    settings = data_settings(cfg)
    dataset = load(settings, cfg.seed)
    heads = [(source.head, source.roles) for source in open_sources(settings)[0]]
    tokenizer, no_tokenizer = None, ""
    if len(dataset.items.texts):
        tokenizer, no_tokenizer = _tokenizer(cfg)
    facts = describe(dataset, heads, tokenizer, cfg.data.max_length, cfg.seed)
    warnings = list(facts.get("warnings", []))
    if no_tokenizer:
        warnings.append(no_tokenizer)
    for problem in check_fit(cfg, dataset):
        warnings.append(f"A run would stop here: {problem.what} {problem.advice}")
    if warnings:
        facts["warnings"] = warnings
    return facts


def _tokenizer(cfg: DictConfig) -> tuple[Any | None, str]:
    """Return the model's tokenizer if it is on this machine, else None and a sentence that says so."""
    name = cfg.model.get("name")
    folder = None
    if name:
        folder = find_local(name, pickles=bool(cfg.model.get("allow_pickle")))
    if folder is None:
        what = f"{name} is not on this machine, so lengths are in characters; a run would download it from the hub."
        return None, what
    from finetune.models.tokenizer import load_tokenizer

    return load_tokenizer(folder, name), ""


@contextmanager
def silent(quiet: bool) -> Iterator[None]:
    """With `quiet`, print no progress and notes to standard output, where a program expects JSON only."""
    before = console.quiet
    console.quiet = before or quiet
    try:
        yield
    finally:
        console.quiet = before
