"""Which losses a config names: the run's, or one for each of several sources; and what the run itself says to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from finetune.config.arguments import filled_by_run
from finetune.config.targets import resolve_target


def loss_nodes(cfg: DictConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return the place and the node of the run's loss, or of each source's in their order: the run's with its own keys.

    A source that names a loss of its own (`_target_`) takes nothing from the run's.
    """
    run = _plain(cfg.loss)
    nodes = []
    for name, source in (_plain(cfg.data).get("sources") or {}).items():
        own = source.get("loss", {})
        node = own if "_target_" in own else {**run, **own}
        nodes.append((f"data.sources.{name}.loss" if own else "loss", node))
    return nodes or [("loss", run)]


def nodes_of(key: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the node of everything that is built from a node, itself and inside."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, inner in node.items():
            yield from nodes_of(f"{key}.{name}", inner)


def facts_wanted(node: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments that the run has to say of what a node builds, and which fact of the run each is."""
    return {name: fact for name, fact in facts_of(node).items() if name not in node}


def facts_of(node: Mapping[str, Any]) -> dict[str, str]:
    """Return which arguments of what a node builds are facts of the run, and which each is, be they there or not."""
    definition, _ = resolve_target(node.get("_target_"), "loss", "")
    return filled_by_run(definition) if definition else {}


def filled(node: Any, facts: Mapping[str, Any]) -> Any:
    """Return a node with the facts of the run put in wherever something wants one, itself or inside."""
    if isinstance(node, list):
        return [filled(each, facts) for each in node]
    if not isinstance(node, dict):
        return node
    inner = {name: filled(each, facts) for name, each in node.items()}
    return inner | {name: facts[fact] for name, fact in facts_wanted(node).items()}


def _plain(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
