"""`finetune mine`: hard negatives for the pairs of data, in a file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from finetune import signals
from finetune.cli.data import refuse_flags
from finetune.cli.errors import exit_code_of
from finetune.cli.words import split_models
from finetune.config.build import build
from finetune.config.check import check
from finetune.config.command_line import Arguments, key_of, parse
from finetune.console import say
from finetune.data.settings import data_settings
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.mining.run import Output, mine_to_file, summary
from finetune.mining.settings import Mining

_OWN_KEYS = {"out": "out", "format": "form", "device": "device"}
# All rows get negatives: nothing is held out, unless the user wants it.
_WHOLE = ("data.validation_fraction=0", "data.validation_path=null", "evaluation=none")


def main(argv: Sequence[str]) -> int:
    """Mine negatives for the data that these words name, and return the exit code."""
    return exit_code_of(lambda: _mine(parse(argv)))


def _mine(arguments: Arguments) -> int:
    refuse_flags(arguments, "mine", "It takes a model, and overrides: key=value.")
    model, output, overrides = _split(arguments.overrides)
    chosen = {key_of(word) for word in overrides}
    defaults = [word for word in _WHOLE if key_of(word) not in chosen]
    if "negatives" not in chosen:
        defaults.append(f"negatives={'bm25' if model is None else 'dense'}")
    cfg = check([*defaults, *overrides], arguments.config_dir, arguments.config_name)
    settings = build(cfg.negatives, "negatives") if cfg.negatives else None
    if not isinstance(settings, Mining):
        what = "this mines nothing."
        raise CheckFailed([Problem("negatives", what, "Choose negatives=dense, bm25 or fused.")])
    signals.raise_on_interrupt()
    mined = mine_to_file(model, data_settings(cfg), settings, output, cfg.seed)
    for line in summary(mined):
        say(line)
    say(f"{output.path} is complete; counts and examples are in {output.report}.", "bold green")
    say(f"`finetune train data=parquet data.path={shlex.quote(str(output.path))}` trains on it.")
    return 0


def _split(words: Sequence[str]) -> tuple[str | None, Output, list[str]]:
    """Return the model, what is written, and the overrides."""
    models, assignments = split_models(words)
    if len(models) > 1:
        what = f"{len(models)} models are named: {', '.join(models)}."
        raise FinetuneError(what, "Name one, and others as negatives.retrievers=[own,OTHER]")
    own = {key_of(word): word.partition("=")[2] for word in assignments if key_of(word) in _OWN_KEYS}
    if not own.get("out"):
        raise CheckFailed([Problem("out", "is not set.", "Name the file to write: out=mined.parquet")])
    output = Output(**{_OWN_KEYS[key]: value for key, value in own.items()})
    return next(iter(models), None), output, [w for w in assignments if key_of(w) not in _OWN_KEYS]
