"""The evaluators of a config, and their properties."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig

from finetune.config.targets import class_variable


def evaluators_of(cfg: DictConfig) -> dict[str, Any]:
    """Return the nodes of the evaluators by name, without report-only ones if the model does not read texts."""
    reads = reads_texts(cfg)
    return {str(name): node for name, node in cfg.evaluation.items() if reads or not report_only(node)}


def reads_texts(cfg: DictConfig) -> bool:
    """Return whether the model of a config reads texts."""
    return "text" in cast(tuple[str, ...], class_variable(cfg.model, "reads", "model") or ("text",))


def needs_eval_data(node: Any) -> bool:
    """Return whether an evaluator uses the run's held-out data: it has no source, and no texts, of its own."""
    return not node.get("data") and not brings_texts(node)


def brings_texts(node: Any) -> bool:
    """Return whether an evaluator provides its own texts, which are only known when it requests their embeddings."""
    return bool(class_variable(node, "brings_texts", "evaluation"))


def report_only(node: Any) -> bool:
    """Return whether an evaluator's metrics are only reported, and never used to judge a run."""
    return bool(class_variable(node, "report_only", "evaluation"))
