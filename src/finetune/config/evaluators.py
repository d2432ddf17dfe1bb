"""Which evaluators of a config the model can be measured by."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig

from finetune.config.targets import class_variable


def evaluators_of(cfg: DictConfig) -> dict[str, Any]:
    """The nodes of the evaluators by name, without those that watch texts where the model reads none."""
    reads = cast(tuple[str, ...], class_variable(cfg.model, "reads", "model") or ("text",))
    return {str(name): node for name, node in cfg.evaluation.items() if "text" in reads or not watches(node)}


def watches(node: Any) -> bool:
    """Whether an evaluator only watches, on texts of its own, and no run is judged by it."""
    return bool(class_variable(node, "watches", "evaluation"))
