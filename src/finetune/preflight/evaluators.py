"""Checks of the evaluators and their data sources before a run; heavy imports only where data is read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from finetune.config.evaluators import brings_texts, evaluators_of, needs_eval_data, reads_texts, report_only
from finetune.config.targets import class_variable
from finetune.data.holdout.eval_source import EvalSource, eval_sources
from finetune.errors import CheckFailed, Problem
from finetune.evaluation import mteb_tasks
from finetune.losses.constraints import dimension_problems
from finetune.preflight.models import check_reads, choice

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset
    from finetune.data.holdout.eval_data import EvalData

# An evaluation that suits each kind of evaluation data; first that of embeddings, then that of a cross-encoder.
_SUITABLE = {
    "judgments": ("retrieval", "reranking"),
    "scored pairs": ("similarity", ""),
    "labelled items": ("classification", ""),
}
_CHOSEN_BY_DATA = ("default", "fitting")  # groups that are meant to be reduced to the evaluators that suit the data
_PACKAGES = {("bm25", True): ("bm25s", "bm25"), ("index", "approximate"): ("usearch", "index")}


def evaluation_problems(cfg: DictConfig, width: int | None) -> Iterator[Problem]:
    """Yield the problems of the evaluators' settings; `width` is that of the embeddings, if known."""
    from finetune.preflight.evaluation_metrics import check_metrics

    scores_pairs = bool(class_variable(cfg.model, "scores_pairs", "model"))
    for name, node in cfg.evaluation.items():
        key = f"evaluation.{name}"
        if scores_pairs and not class_variable(node, "takes_scores", "evaluation"):
            what = f"model={choice(cfg)} scores pairs of texts, but this evaluation compares embeddings."
            yield Problem(key, what, "Choose evaluation=reranking.")
        if brings_texts(node) and not reads_texts(cfg):
            yield Problem(key, f"it evaluates texts, but model={choice(cfg)} does not read text.", "Remove it.")
        if not str(node["_target_"]).startswith("finetune.evaluation."):
            continue  # in a custom evaluator these settings may have another meaning
        yield from check_metrics(key, node)
        if width is not None:
            yield from dimension_problems(key, node.get("dimensions") or [], width)
        yield from _missing_packages(key, node)
        if node["_target_"] == mteb_tasks.TARGET:
            yield from mteb_tasks.task_problems(key, node)


def _missing_packages(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    for (setting, value), (package, extra) in _PACKAGES.items():
        if node.get(setting) == value and importlib.util.find_spec(package) is None:
            what = f"this needs the package {package}, which is not installed."
            yield Problem(f"{key}.{setting}", what, f"Install it: pip install 'finetune[{extra}]'")


def check_sources(cfg: DictConfig) -> list[Problem]:
    """Return the problems of the evaluators' own data sources, from their settings and first rows."""
    return [problem for source in eval_sources(cfg).values() for problem in source.check()]


def load_sources(cfg: DictConfig) -> tuple[dict[str, EvalData], list[Problem]]:
    """Load the evaluators' own data sources; returns their data by the evaluator's name, and the problems."""
    found: dict[str, EvalData] = {}
    problems: list[Problem] = []
    for name, source in eval_sources(cfg).items():
        try:
            found[name] = source.load()
        except CheckFailed as failed:
            problems += failed.problems
            continue
        problems += _unsuitable(cfg, name, source, found[name])
    for name, node in cfg.evaluation.items():
        if node["_target_"] == mteb_tasks.TARGET:
            problems += mteb_tasks.fetch_problems(f"evaluation.{name}", node)
    return found, problems


def add_source_notes(cfg: DictConfig, dataset: Dataset, own: Mapping[str, EvalData]) -> Dataset:
    """Return the data set with the notes and the bad rows of the evaluators' own data added to its own."""
    if not own:
        return dataset
    from finetune.data.bad_rows import list_apart, rows_in

    problems = list_apart(rows_in([dataset.problems, *(eval_data.problems for eval_data in own.values())]))
    return replace(dataset, notes=[*dataset.notes, *source_notes(cfg, own)], problems=problems)


def source_notes(cfg: DictConfig, own: Mapping[str, EvalData]) -> list[str]:
    """Return a sentence for each evaluator with its own data on the size of that, and the notes of the data."""
    notes = []
    for name, eval_data in own.items():
        what = eval_data.of(_evaluates(cfg, name))
        if what is not None and not report_only(cfg.evaluation[name]):
            notes.append(f"evaluation.{name}: {what.counts()} of {what.name}.")
        notes += [f"evaluation.{name}.data: {note}" for note in eval_data.notes]
    return notes


def write_left_out_rows(paths: Iterable[Path | None]) -> Path | None:
    """Write the skipped rows of these files to a file in the working directory; None if there are none."""
    from finetune.data.bad_rows import list_for_user, rows_in

    bad_rows = rows_in(paths)
    if not bad_rows:
        return None
    return list_for_user(bad_rows)


def _unsuitable(cfg: DictConfig, name: str, source: EvalSource, eval_data: EvalData) -> Iterator[Problem]:
    kind = _evaluates(cfg, name)
    if eval_data.of(kind) is None:
        what = f"evaluation.{name} needs {kind}, but this source has {' and '.join(eval_data.kinds())}."
        yield Problem(source.key, what, "Name another source, or its columns: columns=...")
    for problem in check_reads(cfg, eval_data.items):
        yield Problem(source.key, problem.what, problem.advice)


def evaluators_without_data(cfg: DictConfig, eval_data: EvalData) -> list[str]:
    """Return the evaluators that have no data source of their own, and no suitable held-out data."""
    names = [str(name) for name, node in cfg.evaluation.items() if needs_eval_data(node)]
    return [name for name in names if not eval_data.of(_evaluates(cfg, name))]


def unused_eval_data_note(cfg: DictConfig, eval_data: EvalData) -> Iterator[str]:
    """Yield a sentence if rows are held out of training, but no evaluator uses them."""
    from finetune.data.holdout.holdout import HELD_OUT

    names = [name for name, node in evaluators_of(cfg).items() if needs_eval_data(node)]
    is_used = any(eval_data.of(_evaluates(cfg, name)) for name in names)
    if not is_used and any(what.name == HELD_OUT for what in eval_data.found):
        yield (
            "No evaluation uses the held-out part, only the examples of the report do. "
            "To train on all of the data, set data.validation_fraction=0."
        )


def evaluation_notes(cfg: DictConfig, eval_data: EvalData) -> Iterator[str]:
    """Yield a sentence for each evaluator that is skipped: it has no data, or the model does not read text."""
    for name in cfg.evaluation.keys() - evaluators_of(cfg).keys():
        yield f"evaluation.{name} is skipped: it evaluates texts, but model={choice(cfg)} does not read text."
    if cfg.hydra.runtime.choices.get("evaluation") in _CHOSEN_BY_DATA:
        return
    for name in evaluators_without_data(cfg, eval_data):
        yield f"evaluation.{name} is skipped: it needs {_evaluates(cfg, name)}, and {_what_there_is(eval_data)}."


def chosen_evaluation_problems(cfg: DictConfig, eval_data: EvalData) -> list[Problem]:
    """Return a problem if evaluators were chosen by name, and none of them has data."""
    if cfg.hydra.runtime.choices.get("evaluation") in _CHOSEN_BY_DATA or not cfg.evaluation:
        return []
    without_data = evaluators_without_data(cfg, eval_data)
    if evaluators_of(cfg).keys() - set(without_data):
        return []
    return [no_suitable_evaluation(cfg, eval_data)]


def no_suitable_evaluation(cfg: DictConfig, eval_data: EvalData) -> Problem:
    """Return the problem that no evaluator of a config has data, and which evaluation would have."""
    needs = [f"{name} needs {_evaluates(cfg, name)}" for name in evaluators_without_data(cfg, eval_data)]
    what = f"no chosen evaluation suits the data: {', '.join(needs)}, and {_what_there_is(eval_data)}."
    scores_pairs = bool(class_variable(cfg.model, "scores_pairs", "model"))
    suitable = [name for kind in eval_data.kinds() if (name := _SUITABLE[kind][scores_pairs])]
    if suitable:
        return Problem("evaluation", what, f"Choose evaluation={' or evaluation='.join(suitable)}.")
    advice = "Hold out more of the data (data.validation_fraction=0.1), or set evaluation=none."
    return Problem("evaluation", what, advice)


def _what_there_is(eval_data: EvalData) -> str:
    kinds = eval_data.kinds()
    if not kinds:
        return "no rows are held out to evaluate on"
    return f"the data gives {' and '.join(kinds)}"


def _evaluates(cfg: DictConfig, name: Any) -> Any:
    """Return the kind of data that an evaluator needs: judgments, scored pairs or labelled items."""
    return class_variable(cfg.evaluation[name], "evaluates", "evaluation") or "judgments"
