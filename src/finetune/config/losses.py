"""The losses of a config: the run's, or one for each source; and the arguments that the run provides to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from finetune.config.arguments import filled_by_run
from finetune.config.targets import resolve_target


def loss_nodes(cfg: DictConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return the key and the node of the run's loss, or of the loss of each source: the run's with the source's keys.

    A source with its own `_target_` inherits nothing from the run's loss.
    """
    run = _plain(cfg.loss)
    nodes = []
    for name, source in (_plain(cfg.data).get("sources") or {}).items():
        own = source.get("loss", {})
        node = own if "_target_" in own else {**run, **own}
        nodes.append((f"data.sources.{name}.loss" if own else "loss", node))
    return nodes or [("loss", run)]


def nodes_of(key: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the key and the node of everything that a node builds: itself, and nodes inside it."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, inner in node.items():
            yield from nodes_of(f"{key}.{name}", inner)


def facts_wanted(node: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments of a node that the run must provide, and which fact of the run each one is."""
    return {name: fact for name, fact in facts_of(node).items() if name not in node}


def facts_of(node: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments of a node's target that are facts of the run, and which each one is, whether set or not."""
    definition, _ = resolve_target(node.get("_target_"), "loss", "")
    if definition is None:
        return {}
    return filled_by_run(definition)


def filled(node: Any, facts: Mapping[str, Any]) -> Any:
    """Return a node with the facts of the run filled in, in itself and in nodes inside it."""
    if isinstance(node, list):
        return [filled(each, facts) for each in node]
    if not isinstance(node, dict):
        return node
    inner = {name: filled(each, facts) for name, each in node.items()}
    return inner | {name: facts[fact] for name, fact in facts_wanted(node).items()}


def _plain(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
