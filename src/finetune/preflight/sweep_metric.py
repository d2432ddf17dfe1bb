"""The check of the metrics by which a sweep ranks and prunes its trials, where it is known which ones there will be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.evaluators import evaluators_of, report_only
from finetune.config.suggest import did_you_mean
from finetune.errors import Problem
from finetune.preflight.evaluation_metrics import metric_names

# Names that a training logs, and beginnings of those that depend on stages and callbacks.
TRAINING = (
    *("loss", "learning_rate", "epoch", "items_per_second", "tokens_per_second", "padding_share", "repeats_share"),
    *("recomputed_share", "token_budget", "peak_memory_mb"),
)
PREFIXES = ("seconds/", "device/", "wise_ft/", "average/")
_OURS = "finetune.training.callbacks."
_MOST_LISTED = 20


@dataclass(frozen=True)
class KnownMetrics:
    """The metrics of the evaluations in the report, and those that are logged in metrics.jsonl, by name."""

    reported: list[str]
    logged: list[str]


def check_sweep_metric(cfg: DictConfig) -> Iterator[Problem]:
    """Yield the problems of `sweep.metric` and `sweep.prune_by`."""
    known = known_metrics(cfg)
    if known is None:
        return
    for key, names in (("metric", [*known.reported, *known.logged]), ("prune_by", known.logged)):
        name = cfg.sweep.get(key)
        if name in (None, "auto") or name in names or str(name).startswith(PREFIXES):
            continue
        listed = ", ".join(names[:_MOST_LISTED])
        what = f"the runs have no metric '{name}'."
        yield Problem(f"sweep.{key}", what, f"{did_you_mean(name, names)} There are: {listed}.".strip())


def known_metrics(cfg: DictConfig) -> KnownMetrics | None:
    """Return the metrics that a run of this config can have; None if some are only known to its code."""
    callbacks = cfg.callbacks or {}
    if not all(str(node["_target_"]).startswith(_OURS) for node in callbacks.values()):
        return None  # it may log anything
    reported: list[str] = []
    logged: list[str] = []
    for evaluation, node in evaluators_of(cfg).items():
        if report_only(node):
            continue
        names = result_names(node)
        if names is None:
            return None
        reported += [*names, *(f"{evaluation}/{name}" for name in names)]
        logged += [f"{evaluation}/{when}{name}" for when in ("", "before/", "after/") for name in names]
    return KnownMetrics([*dict.fromkeys(reported)], [*TRAINING, *logged])


def result_names(node: DictConfig) -> list[str] | None:
    """Return the names of the metrics in the result of an evaluator; None if only its code determines them."""
    settings: Any = OmegaConf.to_container(node, resolve=True)
    metrics = metric_names(settings)
    names = [name for name in metrics if name is not None]
    if len(names) < len(metrics):
        return None
    match str(settings["_target_"]).removeprefix("finetune.evaluation."):
        case "retrieval.Retrieval" | "reranking.Reranking":
            found = _of_retrieval(names, settings)
        case "similarity.Similarity" | "similarity.PairClassification":
            found = _of_similarity(names, settings)
        case "classification.Classification":
            found = _of_classification(names, settings)
        case "classification.Clustering":
            found = names
        case "geometry.Geometry":
            found = ["-alignment", "-uniformity"]
        case _:
            return None
    return [*dict.fromkeys(found)]


def _of_retrieval(names: list[str], settings: Mapping[str, Any]) -> list[str]:
    dimensions, precisions = (settings.get(key) or [] for key in ("dimensions", "precisions"))
    variants = [
        ", ".join(str(word) for word in words if word is not None)
        for words in product([None, *dimensions], [None, *precisions])
    ]
    return [*names, *(f"{names[0]} ({variant})" for variant in variants if variant)]


def _of_similarity(names: list[str], settings: Mapping[str, Any]) -> list[str]:
    similarities: Sequence[str] = settings["similarities"]
    return [f"{name} {kind}" for kind in similarities for name in [*settings.get("correlations", []), *names]]


def _of_classification(names: list[str], settings: Mapping[str, Any]) -> list[str]:
    methods = [f"{settings['neighbours']} neighbours" if by == "neighbours" else by for by in settings["by"]]
    return [f"{name} {method}" for method in methods for name in names]
