"""Checks of combinations of callbacks and evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from finetune.config.compose import Composer, shipped_folder
from finetune.errors import Problem

_OURS = "finetune.training.callbacks."
_EVALUATE = "Add `evaluate` to the callbacks, as in callbacks=[default,evaluate,best]."


def check_callbacks(tree: dict[str, Any]) -> Iterator[Problem]:
    """Yield problems between the callbacks, the evaluations and the tuning of a resolved tree."""
    nodes = _named(tree.get("callbacks"))
    evaluations = _named(tree.get("evaluation"))
    only_at_ends = [name for name, node in evaluations.items() if node.get("during_training") is False]
    for name in only_at_ends:
        del evaluations[name]  # callbacks cannot use it during training
    kinds = {_kind(node): key for key, node in nodes.items()}
    kinds.pop(None, None)
    if not evaluations:
        what, advice = "there is no evaluation.", "Set evaluation=retrieval"
        if only_at_ends:
            what = "there is no evaluation during training."
            advice = f"Set evaluation.{only_at_ends[0]}.during_training=true"
        for kind, key in kinds.items():
            if kind in ("Evaluate", "WiseFT"):
                yield Problem(f"callbacks.{key}", what, f"{advice}, or leave it out.")
    for key, node in nodes.items():
        if _uses_evaluations(node) and "Evaluate" not in kinds:
            what = "it needs evaluations during training, and there are none."
            yield Problem(f"callbacks.{key}", what, _EVALUATE)
        elif evaluations:
            yield from _check_metric(key, node, [*evaluations])
        yield from _check_best(key, node)
    if str(_node(tree.get("tuning")).get("_target_")).endswith(".LoRA"):
        for kind in kinds.keys() & {"WiseFT", "Interpolate"}:
            what = "it interpolates the weights before and after training, which tuning=lora does not change."
            yield Problem(f"callbacks.{kinds[kind]}", what, "Set tuning=full, or leave it out.")


def callbacks_without_default(node: dict[str, Any], key: str, composer: Composer) -> Problem | None:
    """Return the problem of an option that changes a callback of callbacks=default without selecting it."""
    files = [file.config_path or "" for file in composer.defaults()]
    chosen = [file.removeprefix("callbacks/") for file in files if file.startswith("callbacks/")]
    default = yaml.safe_load((shipped_folder() / "callbacks/default.yaml").read_text("utf-8"))
    if "default" in chosen or key.removeprefix("callbacks.") not in default:
        return None
    missing = ["default"]
    if _count(node.get("best")) > 0 and "evaluate" not in chosen:
        missing.append("evaluate")
    what = f"it only changes {key} of callbacks=default, which is not selected."
    return Problem(key, what, f"Write 'callbacks=[{','.join([*missing, *chosen])}]'.")


def evaluates(callbacks: Any) -> str | None:
    """Return the key of a callback that needs data to evaluate on, if there is one."""
    for key, node in _named(callbacks).items():
        if _kind(node) in ("Evaluate", "WiseFT"):
            return f"callbacks.{key}"
    return None


def _uses_evaluations(node: dict[str, Any]) -> bool:
    kind = _kind(node)
    return kind == "EarlyStopping" or (kind == "Checkpoint" and _count(node.get("best")) > 0)


def _check_best(key: str, node: dict[str, Any]) -> Iterator[Problem]:
    if _kind(node) == "Checkpoint" and node.get("restore_best") is True and _count(node.get("best")) == 0:
        what = f"the best checkpoint is not kept: callbacks.{key}.best is 0."
        yield Problem(f"callbacks.{key}.restore_best", what, f"Set callbacks.{key}.best=1.")


def _check_metric(key: str, node: dict[str, Any], evaluations: list[str]) -> Iterator[Problem]:
    metric = node.get("metric", "auto")
    if _kind(node) is None or not isinstance(metric, str) or metric == "auto":
        return
    first = metric.removeprefix("average/").partition("/")[0]
    if first not in evaluations:
        what = f"'{metric}' is not a metric of an evaluation of this run."
        advice = f"It starts with the name of an evaluation and a slash: {', '.join(evaluations)}."
        yield Problem(f"callbacks.{key}.metric", what, advice)


def _kind(node: Any) -> str | None:
    """Return the class name of a callback of finetune; None for others."""
    target = str(_node(node).get("_target_"))
    if not target.startswith(_OURS):
        return None
    return target.rpartition(".")[2]


def _named(group: Any) -> dict[str, dict[str, Any]]:
    return {name: node for name, node in _node(group).items() if isinstance(node, dict)}


def _node(node: Any) -> dict[str, Any]:
    return node if isinstance(node, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
