"""Which evaluators of a config the model can be measured by."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig

from finetune.config.targets import class_variable


def evaluators_of(cfg: DictConfig) -> dict[str, Any]:
    """The nodes of the evaluators by name, without the report-only ones if the model reads no texts."""
    reads = reads_texts(cfg)
    return {str(name): node for name, node in cfg.evaluation.items() if reads or not report_only(node)}


def reads_texts(cfg: DictConfig) -> bool:
    """Whether the model of a config reads texts."""
    return "text" in cast(tuple[str, ...], class_variable(cfg.model, "reads", "model") or ("text",))


def needs_eval_data(node: Any) -> bool:
    """Whether an evaluator measures on what the run holds out: it has no source, and no texts, of its own."""
    return not node.get("data") and not brings_texts(node)


def brings_texts(node: Any) -> bool:
    """Whether an evaluator has texts that are not known before it asks for their embeddings."""
    return bool(class_variable(node, "brings_texts", "evaluation"))


def report_only(node: Any) -> bool:
    """Whether an evaluator is only reported: it has its own texts, and no run is judged by it."""
    return bool(class_variable(node, "report_only", "evaluation"))
