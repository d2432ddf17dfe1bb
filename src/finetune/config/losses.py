"""Which losses a config names: the run's, or one for each of several sources."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf


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


def _plain(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
