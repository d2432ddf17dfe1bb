"""What can be wrong with evaluators, told before anything is measured; heavy only where data is read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from finetune.config.evaluators import brings_texts, evaluators_of, needs_eval_data, reads_texts, report_only
from finetune.config.targets import class_variable
from finetune.data.holdout.eval_source import OtherSource, other_sources
from finetune.errors import CheckFailed, Problem
from finetune.evaluation import mteb_tasks
from finetune.evaluation.metric_names import wrong_names
from finetune.losses.constraints import too_wide
from finetune.preflight.models import check_reads, choice

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset
    from finetune.data.holdout.eval_data import EvalData

_PACKAGES = {("bm25", True): ("bm25s", "bm25"), ("index", "approximate"): ("usearch", "index")}


def evaluation_problems(cfg: DictConfig, width: int | None) -> Iterator[Problem]:
    """Yield what is wrong with the evaluators' settings, with the `width` of the embeddings, if that is known."""
    scores = bool(class_variable(cfg.model, "scores_pairs", "model"))
    for name, node in cfg.evaluation.items():
        key = f"evaluation.{name}"
        if scores and not class_variable(node, "takes_scores", "evaluation"):
            what = f"model={choice(cfg)} scores pairs of texts, and this evaluation compares embeddings."
            yield Problem(key, what, "Choose evaluation=reranking.")
        if brings_texts(node) and not reads_texts(cfg):
            yield Problem(key, f"it is of texts, and model={choice(cfg)} reads none.", "Leave it out.")
        if not str(node["_target_"]).startswith("finetune.evaluation."):
            continue  # in an evaluator of somebody's own the same words may mean something else
        yield from wrong_names(f"{key}.metrics", node.get("metrics") or [])
        if width is not None:
            yield from too_wide(key, node.get("dimensions") or [], width)
        yield from _missing_packages(key, node)
        if node["_target_"] == mteb_tasks.TARGET:
            yield from mteb_tasks.task_problems(key, node)


def _missing_packages(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    for (setting, value), (package, extra) in _PACKAGES.items():
        if node.get(setting) == value and importlib.util.find_spec(package) is None:
            what = f"this needs the package {package}, which is not installed."
            yield Problem(f"{key}.{setting}", what, f"Install it: pip install 'finetune[{extra}]'")


def check_sources(cfg: DictConfig) -> list[Problem]:
    """Return what is wrong with the evaluators' own sources, by their settings and first rows."""
    return [problem for source in other_sources(cfg).values() for problem in source.check()]


def load_sources(cfg: DictConfig) -> tuple[dict[str, EvalData], list[Problem]]:
    """Read the evaluators' own sources, by the evaluators' names; returns also what is wrong with them."""
    found: dict[str, EvalData] = {}
    problems: list[Problem] = []
    for name, source in other_sources(cfg).items():
        try:
            found[name] = source.load()
        except CheckFailed as failed:
            problems += failed.problems
            continue
        problems += _unfit(cfg, name, source, found[name])
    for name, node in cfg.evaluation.items():
        if node["_target_"] == mteb_tasks.TARGET:
            problems += mteb_tasks.fetch_problems(f"evaluation.{name}", node)
    return found, problems


def with_sources(cfg: DictConfig, dataset: Dataset, own: Mapping[str, EvalData]) -> Dataset:
    """Return the data set with what is to be said of the evaluators' own sources, and with their bad rows listed."""
    if not own:
        return dataset
    from finetune.data.bad_rows import list_apart, rows_in

    problems = list_apart(rows_in([dataset.problems, *(held.problems for held in own.values())]))
    return replace(dataset, notes=[*dataset.notes, *source_notes(cfg, own)], problems=problems)


def source_notes(cfg: DictConfig, own: Mapping[str, EvalData]) -> list[str]:
    """Return a sentence for each evaluator that says what data of its own it evaluates on, then the data's notes."""
    notes = []
    for name, held in own.items():
        what = held.of(_wanted(cfg, name))
        if what is not None and not report_only(cfg.evaluation[name]):
            notes.append(f"evaluation.{name}: {what.counts()} of {what.name}.")
        notes += [f"evaluation.{name}.data: {note}" for note in held.notes]
    return notes


def list_left_out(paths: Iterable[Path | None]) -> Path | None:
    """Write the rows that were left out to a file in the working directory, and return it; None if none were."""
    from finetune.data.bad_rows import list_for_user, rows_in

    bad = rows_in(paths)
    return list_for_user(bad) if bad else None


def _unfit(cfg: DictConfig, name: str, source: OtherSource, held: EvalData) -> Iterator[Problem]:
    wanted = _wanted(cfg, name)
    if held.of(wanted) is None:
        what = f"evaluation.{name} needs {wanted}, and these are {' and '.join(held.kinds())}."
        yield Problem(source.key, what, "Name another source, or its columns: columns=...")
    for problem in check_reads(cfg, held.items):
        yield Problem(source.key, problem.what, problem.advice)


def unmeasured(cfg: DictConfig, held: EvalData) -> list[str]:
    """Return the evaluators without a source of their own that nothing of the run's held-out data is for."""
    return [
        str(name) for name, node in cfg.evaluation.items() if needs_eval_data(node) and not held.of(_wanted(cfg, name))
    ]


def unused_held_note(cfg: DictConfig, held: EvalData) -> Iterator[str]:
    """Yield a sentence if rows are held out of training and no evaluator measures on them."""
    from finetune.data.holdout.holdout import HELD

    used = any(needs_eval_data(node) and held.of(_wanted(cfg, name)) for name, node in evaluators_of(cfg).items())
    if not used and any(what.name == HELD for what in held.found):
        yield (
            "No evaluation uses the held-out part, only the examples of the report do. "
            "To train on all of the data, set data.validation_fraction=0."
        )


def evaluation_notes(cfg: DictConfig, held: EvalData) -> Iterator[str]:
    """Yield a sentence for each evaluator that was asked for and has nothing to measure, or no such model."""
    for name in cfg.evaluation.keys() - evaluators_of(cfg).keys():
        yield f"evaluation.{name} is left out: it is of texts, and model={choice(cfg)} reads none."
    if cfg.hydra.runtime.choices.get("evaluation") in ("default", "fitting"):
        return  # of which what fits the data is taken
    for name in unmeasured(cfg, held):
        there = " and ".join(held.kinds()) or "nothing"
        yield f"evaluation.{name} is left out: it needs {_wanted(cfg, name)}, and {there} is held out."


def _wanted(cfg: DictConfig, name: Any) -> Any:
    return class_variable(cfg.evaluation[name], "evaluates", "evaluation") or "judgments"
