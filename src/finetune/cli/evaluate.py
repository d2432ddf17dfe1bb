"""`finetune evaluate`: evaluate and compare models without training."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from finetune.api.evaluate_models import evaluate_models
from finetune.api.evaluation import Evaluation
from finetune.cli.data import refuse_flags
from finetune.cli.errors import exit_code_of
from finetune.cli.words import split_models
from finetune.config.command_line import Arguments, parse
from finetune.console import console, say, silenced


def main(argv: Sequence[str], *, as_json: bool) -> int:
    """Evaluate the given models with the evaluators and data of the overrides; returns the exit code."""
    return exit_code_of(lambda: _evaluate(parse(argv), as_json=as_json))


def _evaluate(arguments: Arguments, *, as_json: bool) -> int:
    refuse_flags(arguments, "evaluate", "It takes models, and overrides: key=value.")
    models, overrides = split_models(arguments.overrides)
    # Where a program expects JSON there are no notes and no progress.
    with silenced() if as_json else contextlib.nullcontext():
        results = evaluate_models(models, overrides, arguments)
    if results is None and not as_json:
        say("The models, the config and the data are fine; nothing was evaluated.", style="bold green")
        return 0
    from finetune.report.terminal import models_table

    results = results or {}
    if as_json:
        sys.stdout.write(json.dumps({"evaluations": Evaluation(results).to_dict()}, indent=1) + "\n")
    else:
        for name, by_model in results.items():
            console.print(models_table(name, by_model))
    return 0
