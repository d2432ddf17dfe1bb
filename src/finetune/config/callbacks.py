"""Callbacks that are right each by itself and wrong together, or without what they go by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from finetune.config.compose import Composer, shipped_folder
from finetune.errors import Problem

_OURS = "finetune.training.callbacks."
_EVALUATE = "Add `evaluate` to the callbacks, as in callbacks=[default,evaluate,best]."


def check_callbacks(tree: dict[str, Any]) -> Iterator[Problem]:
    """Everything wrong between the callbacks of a resolved tree, its evaluations and how it tunes."""
    nodes = _named(tree.get("callbacks"))
    evaluations = _named(tree.get("evaluation"))
    ends = [name for name, node in evaluations.items() if node.get("during_training") is False]
    for name in ends:
        del evaluations[name]  # it measures at the ends only, so nothing in between can go by it
    advice = f"Set evaluation.{ends[0]}.during_training=true" if ends else "Set evaluation=retrieval"
    kinds = {kind: key for key, node in nodes.items() if (kind := _kind(node))}
    measures = [key for kind, key in kinds.items() if kind in ("Evaluate", "WiseFT")]
    for key in measures if not evaluations else ():
        what = f"there is no evaluation{' during training' if ends else ''}."
        yield Problem(f"callbacks.{key}", what, f"{advice}, or leave it out.")
    for key, node in nodes.items():
        if _goes_by_evaluation(node) and "Evaluate" not in kinds:
            what = "it goes by evaluations in training, and there are none."
            yield Problem(f"callbacks.{key}", what, _EVALUATE)
        elif evaluations:
            yield from _check_metric(key, node, [*evaluations])
        yield from _check_best(key, node)
    if "WiseFT" in kinds and str(_node(tree.get("tuning")).get("_target_")).endswith(".LoRA"):
        what = "it mixes the weights before with those after, and tuning=lora leaves them as they are."
        yield Problem(f"callbacks.{kinds['WiseFT']}", what, "Set tuning=full, or leave it out.")


def callbacks_without_default(node: dict[str, Any], key: str, composer: Composer) -> Problem | None:
    """What is missing where a chosen file changes a callback of callbacks=default, which was not chosen."""
    files = [file.config_path or "" for file in composer.defaults()]
    chosen = [file.removeprefix("callbacks/") for file in files if file.startswith("callbacks/")]
    default = yaml.safe_load((shipped_folder() / "callbacks/default.yaml").read_text("utf-8"))
    if "default" in chosen or key.removeprefix("callbacks.") not in default:
        return None
    missing = ["default"]
    if _count(node.get("best")) > 0 and "evaluate" not in chosen:
        missing.append("evaluate")
    what = f"it only changes {key} of callbacks=default, which is not chosen."
    return Problem(key, what, f"Write 'callbacks=[{','.join([*missing, *chosen])}]'.")


def evaluates(callbacks: Any) -> str | None:
    """The key of a callback that needs something to evaluate on, if there is one."""
    keys = (f"callbacks.{key}" for key, node in _named(callbacks).items() if _kind(node) in ("Evaluate", "WiseFT"))
    return next(keys, None)


def _goes_by_evaluation(node: dict[str, Any]) -> bool:
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
        what = f"'{metric}' is of no evaluation of this run."
        yield Problem(f"callbacks.{key}.metric", what, f"It begins with one of: {', '.join(evaluations)}; and a slash.")


def _kind(node: Any) -> str | None:
    """What a node builds, if it is one of ours."""
    target = str(_node(node).get("_target_"))
    return target.rpartition(".")[2] if target.startswith(_OURS) else None


def _named(group: Any) -> dict[str, dict[str, Any]]:
    return {name: node for name, node in _node(group).items() if isinstance(node, dict)}


def _node(node: Any) -> dict[str, Any]:
    return node if isinstance(node, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
