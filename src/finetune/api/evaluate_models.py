"""Evaluating models: which config and data each of them gets, and their results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from finetune import signals
from finetune.config.build import build
from finetune.config.check import check_overrides
from finetune.config.command_line import Arguments, key_of
from finetune.config.compose import compose
from finetune.config.evaluators import evaluators_of, needs_eval_data, report_only
from finetune.config.quoting import quoted
from finetune.console import say
from finetune.data.open_sources import check_head
from finetune.data.settings import data_settings
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.preflight.devices import check_devices
from finetune.preflight.evaluators import (
    check_sources,
    evaluation_notes,
    evaluation_problems,
    evaluators_without_data,
    load_sources,
    no_suitable_evaluation,
    source_notes,
    write_left_out_rows,
)
from finetune.preflight.models import (
    check_lengths,
    check_reads,
    download_missing,
    inspect_models,
    model_notes,
    offline_problems,
    width,
)
from finetune.preflight.resume import overrides_of, with_root_of
from finetune.runs.directory import RunDirectory
from finetune.runs.registry import run_of, suggest_run

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import EvalData
    from finetune.evaluation.result import Result

# Overrides that determine on which data, and how, a model is evaluated.
_AFFECTS_EVALUATION = re.compile(r"[+~]*(data|evaluation|seed|recipe)[.=@]")


def evaluate_models(
    models: list[str], overrides: list[str], arguments: Arguments
) -> dict[str, dict[str, Result]] | None:
    """Return the result of each evaluator for each model, by evaluator name and model name; None for `check=true`.

    `models` are run directories, folders or hub ids; without one it is `model.name`. `arguments` name the root config.

    Raises:
        CheckFailed: with all problems.
        FinetuneError: a model is missing or unusable, there is nothing to evaluate on, an embedding is not finite.
    """
    configs = _checked(models, overrides, arguments)
    signals.raise_on_interrupt()
    first, *_ = configs.values()
    held, own = _eval_data(configs)
    loaded = list(own.values())
    if held is not None:
        loaded.insert(0, held)
        for note in held.notes:
            say(note)
    for note in source_notes(first, own):
        say(note)
    listing = write_left_out_rows(data.problems for data in loaded)
    if listing is not None:
        say(f"The skipped rows are listed in {listing}.")
    if first.check:
        return None
    evaluators = {name: build(node, f"evaluation.{name}") for name, node in evaluators_of(first).items()}
    for cfg in configs.values():
        download_missing(cfg)
    from finetune.training.evaluate import evaluate

    by_evaluator: dict[str, dict[str, Result]] = {}
    for label, cfg in configs.items():
        for name, result in evaluate(cfg, evaluators, held, own, label).items():
            by_evaluator.setdefault(name, {})[label] = result
    return by_evaluator


def as_overrides(model: str) -> list[str]:
    """Return the overrides that select a model: the trained model of a run, or any folder or hub id."""
    run = run_of(model)
    if run is None:
        return [f"model.name={quoted(model)}"]
    if not run.model.is_dir():
        raise FinetuneError(f"the run {run.path} has no model yet.", "Let it finish first, or give another one.")
    # The settings of the model's architecture are in the folder that it was saved to.
    return [*_model_option(run), f"model.name={quoted(str(run.model))}"]


def _model_option(run: RunDirectory) -> list[str]:
    """Return the override model=... that a run was started with, typed or set in a file."""
    started = with_root_of(run, Arguments(overrides_of(run)))
    try:
        cfg = compose(started.overrides, started.config_dir, started.config_name)
    except CheckFailed:  # its config files have changed since
        return [word for word in started.overrides if key_of(word) == "model"]
    option = cfg.hydra.runtime.choices.get("model")
    return [f"model={option}"] if option else []


def _of_argument(problem: Problem, model: str) -> Problem:
    """Return a problem of `model.name`, which was given as an argument, in the words of a caller without that key."""
    if problem.where != "model.name":
        return problem
    what, advice = (text.replace("model.name=", "") for text in (problem.what, problem.advice))
    return Problem(model, what, suggest_run(model) or advice)


def _evaluation_arguments(models: list[str], arguments: Arguments) -> Arguments:
    """Return the root config and the evaluation overrides of the first run among `models`, if there is a run."""
    for model in models:
        run = run_of(model)
        if run is not None:
            overrides = [word for word in overrides_of(run) if _AFFECTS_EVALUATION.match(word)]
            return replace(with_root_of(run, arguments), overrides=overrides)
    return replace(arguments, overrides=[])


def _checked(models: list[str], overrides: list[str], arguments: Arguments) -> dict[str, DictConfig]:
    """Return the config of each model, by the name that was given."""
    if all(key_of(word) == "check" for word in overrides):
        arguments = _evaluation_arguments(models, arguments)
        overrides = [*arguments.overrides, *overrides]
    if not models:
        cfg, problems = _check(overrides, arguments)
        if cfg is None or problems:
            raise CheckFailed(dict.fromkeys(problems))
        return {str(cfg.model.get("name")): cfg}
    configs: dict[str, DictConfig] = {}
    problems = []
    for model in models:
        cfg, found = _check([*as_overrides(model), *overrides], arguments)
        problems += [_of_argument(problem, model) for problem in found]
        if cfg is not None:
            configs[model] = cfg
    if problems:
        raise CheckFailed(dict.fromkeys(problems))
    return configs


def _check(overrides: list[str], arguments: Arguments) -> tuple[DictConfig | None, list[Problem]]:
    """Return the config and the problems of those parts of it that an evaluation uses."""
    cfg, problems = check_overrides(overrides, arguments.config_dir, arguments.config_name)
    if cfg is None or problems:
        return cfg, problems
    models, problems = inspect_models(cfg)
    problems += [] if problems else offline_problems(cfg)
    problems += [*check_lengths(cfg, models), *check_devices(cfg)]
    problems += [*evaluation_problems(cfg, width(cfg, models)), *check_sources(cfg)]
    if not cfg.evaluation:
        what = "there is no evaluator."
        problems.append(Problem("evaluation", what, "Choose some: 'evaluation=[retrieval,geometry]'."))
    if _needs_run_data(cfg):
        problems += check_head(data_settings(cfg))
    for note in model_notes(cfg, models, training=False):
        say(note)
    return cfg, problems


def _needs_run_data(cfg: DictConfig) -> bool:
    return any(needs_eval_data(node) for node in cfg.evaluation.values())


def _eval_data(configs: Mapping[str, DictConfig]) -> tuple[EvalData | None, dict[str, EvalData]]:
    """Return the data that a run would hold out, None if no evaluator needs it, and the evaluators' own sources."""
    first, *_ = configs.values()
    own, problems = load_sources(first)
    held: EvalData | None = None
    if _needs_run_data(first):
        from finetune.data.load import load

        dataset = load(data_settings(first), first.seed)
        for note in [*dataset.notes, *evaluation_notes(first, dataset.held)]:
            say(note)
        held = replace(dataset.held, problems=dataset.problems)
        judging = [node for node in evaluators_of(first).values() if not report_only(node)]
        if len(evaluators_without_data(first, held)) == len(judging):
            problems.append(no_suitable_evaluation(first, held))
        for cfg in configs.values():
            problems += check_reads(cfg, held.items)
    if problems:
        raise CheckFailed(dict.fromkeys(problems))
    return held, own
