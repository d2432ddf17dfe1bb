"""`finetune evaluate`: any models measured side by side, without training."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from finetune import signals
from finetune.cli.data import silent
from finetune.config.build import build
from finetune.config.check import check_overrides
from finetune.config.command_line import Arguments, key_of, parse
from finetune.config.compose import compose
from finetune.config.evaluators import evaluators_of, needs_eval_data, report_only
from finetune.config.quoting import quoted
from finetune.console import console, say
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.exit_codes import exit_code_of
from finetune.preflight.devices import check_devices
from finetune.preflight.evaluators import (
    check_sources,
    evaluation_notes,
    evaluation_problems,
    list_left_out,
    load_sources,
    source_notes,
    unmeasured,
)
from finetune.preflight.models import check_lengths, check_reads, fetch, inspect_models, model_notes, width
from finetune.preflight.resume import overrides_of, with_root_of
from finetune.runs.directory import RunDirectory
from finetune.runs.registry import OUTPUTS, find

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import EvalData
    from finetune.evaluation.result import Result

# What says on which data a model is measured, and how.
_MEASURES = re.compile(r"[+~]*(data|evaluation|seed|recipe)[.=@]")


def main(argv: Sequence[str], *, as_json: bool) -> int:
    """Measure the models that are named, with the evaluators and data of the overrides; returns the exit code."""
    return exit_code_of(lambda: _evaluate(parse(argv), as_json=as_json))


def _evaluate(arguments: Arguments, *, as_json: bool) -> int:
    if arguments.multirun or arguments.show:
        flag = "-m" if arguments.multirun else arguments.show[0]
        raise FinetuneError(f"evaluate does not take {flag}.", "It takes models, and overrides: key=value.")
    with silent(as_json):
        found = measured(arguments)
    if found is None and not as_json:
        say("The models, the config and the data are fine; nothing was evaluated.", style="bold green")
        return 0
    found = found or {}
    from finetune.report.side_by_side import as_data, side_by_side

    if as_json:
        data = {"evaluations": {name: as_data(results) for name, results in found.items()}}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        for name, results in found.items():
            console.print(side_by_side(name, results))
    return 0


def measured(arguments: Arguments) -> dict[str, dict[str, Result]] | None:
    """Return what each evaluator found of each model, by the evaluators' and the models' names.

    None if `check` asks for nothing but to look whether all is as it must be.

    Raises:
        CheckFailed: with everything that is wrong.
        FinetuneError: a model cannot be had, there is nothing to be found, an embedding is no number.
    """
    models, overrides = split_models(arguments.overrides)
    configs = _checked(models, overrides, arguments)
    signals.raise_on_interrupt()
    first = next(iter(configs.values()))
    held, own = _held(configs)
    for note in [*(held.notes if held else []), *source_notes(first, own)]:
        say(note)
    listing = list_left_out(one.problems for one in (held, *own.values()) if one is not None)
    if listing is not None:
        say(f"What was left out is listed in {listing}.")
    if first.check:
        return None
    evaluators = {name: build(node, f"evaluation.{name}") for name, node in evaluators_of(first).items()}
    for cfg in configs.values():
        fetch(cfg)
    from finetune.training.evaluate import evaluate

    by_model = {label: evaluate(cfg, evaluators, held, own, label) for label, cfg in configs.items()}
    names = next(iter(by_model.values()))
    return {name: {label: results[name] for label, results in by_model.items()} for name in names}


def split_models(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the models and the overrides among the words that were typed: a model is a word without `=`."""
    models = [word for word in words if "=" not in word and (not word.startswith("~") or word.startswith("~/"))]
    return list(dict.fromkeys(models)), [word for word in words if word not in models]


def as_overrides(model: str) -> list[str]:
    """Return the overrides that choose a model: a run's, of the kind that the run trained, or any folder or hub id."""
    run = run_of(model)
    if run is None:
        return [f"model.name={quoted(model)}"]
    if not run.model.is_dir():
        raise FinetuneError(f"the run {run.path} has no model yet.", "Let it finish first, or name another one.")
    # What shaped the model when it was new is in the folder that it was saved to.
    return [*_kind_of(run), f"model.name={quoted(str(run.model))}"]


def _kind_of(run: RunDirectory) -> list[str]:
    """Return the override that chooses a run's kind of model, whichever file or word chose it."""
    started = with_root_of(run, Arguments(overrides_of(run)))
    try:
        cfg = compose(started.overrides, started.config_dir, started.config_name)
    except CheckFailed:  # its files have changed since
        return [word for word in started.overrides if key_of(word) == "model"]
    chosen = cfg.hydra.runtime.choices.get("model")
    return [f"model={chosen}"] if chosen else []


def run_of(model: str) -> RunDirectory | None:
    """Return the run that is meant: its directory, or <experiment>/<name> or <name> below outputs, in full."""
    folder = Path(model).expanduser()
    if not folder.exists() and OUTPUTS.is_dir():
        with contextlib.suppress(FinetuneError):
            folder = find(model, OUTPUTS, whole=True)
    run = RunDirectory(folder)
    return run if run.config_path.is_file() else None


def _as_it_was_measured(models: list[str], arguments: Arguments) -> Arguments:
    """Return the root config and the overrides of the first run that is named, as far as they say on what it is
    measured, and how; without a run the arguments as they are.
    """
    run = next((run for model in models if (run := run_of(model)) is not None), None)
    if run is None:
        return replace(arguments, overrides=[])
    words = [word for word in overrides_of(run) if _MEASURES.match(word)]
    return replace(with_root_of(run, arguments), overrides=words)


def _checked(models: list[str], overrides: list[str], arguments: Arguments) -> dict[str, DictConfig]:
    """Return the config of each model, by what it is called."""
    if all(key_of(word) == "check" for word in overrides):
        arguments = _as_it_was_measured(models, arguments)
        overrides = [*arguments.overrides, *overrides]
    configs: dict[str, DictConfig] = {}
    problems: list[Problem] = []
    for words in [as_overrides(model) for model in models] or [[]]:
        cfg, found = _look([*words, *overrides], arguments)
        problems += found
        if cfg is not None:
            configs[models[len(configs)] if models else str(cfg.model.get("name"))] = cfg
    if problems:
        raise CheckFailed(dict.fromkeys(problems))
    return configs


def _look(overrides: list[str], arguments: Arguments) -> tuple[DictConfig | None, list[Problem]]:
    """Return the config and what is wrong with it, as far as it takes part in measuring."""
    cfg, problems = check_overrides(overrides, arguments.config_dir, arguments.config_name)
    if cfg is None or problems:
        return cfg, problems
    models, problems = inspect_models(cfg)
    problems += [*check_lengths(cfg, models), *check_devices(cfg)]
    problems += [*evaluation_problems(cfg, width(cfg, models)), *check_sources(cfg)]
    if not cfg.evaluation:
        what = "there is nothing to measure by."
        problems.append(Problem("evaluation", what, "Choose some: 'evaluation=[retrieval,geometry]'."))
    if _needs_run_data(cfg):
        problems += build(cfg.data, "data").check_head()
    for note in model_notes(cfg, models, training=False):
        say(note)
    return cfg, problems


def _needs_run_data(cfg: DictConfig) -> bool:
    return any(needs_eval_data(node) for node in cfg.evaluation.values())


def _held(configs: Mapping[str, DictConfig]) -> tuple[EvalData | None, dict[str, EvalData]]:
    """Return what a run with the same overrides would hold out, if it is asked for, and the evaluators' own sources."""
    first = next(iter(configs.values()))
    own, problems = load_sources(first)
    held: EvalData | None = None
    if _needs_run_data(first):
        dataset = build(first.data, "data").load(first.seed)
        for note in [*dataset.notes, *evaluation_notes(first, dataset.held)]:
            say(note)
        held = replace(dataset.held, problems=dataset.problems)
        if len(unmeasured(first, held)) == sum(not report_only(node) for node in evaluators_of(first).values()):
            what = f"of this data {' and '.join(held.kinds()) or 'nothing'} is held out, which no evaluation is for."
            problems.append(Problem("evaluation", what, "Choose another: evaluation=similarity, say."))
    for cfg in configs.values():
        problems += check_reads(cfg, held.items) if held else []
    if problems:
        raise CheckFailed(dict.fromkeys(problems))
    return held, own
