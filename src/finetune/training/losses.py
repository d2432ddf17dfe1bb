"""The losses of a run, built and told what only the run knows."""

from __future__ import annotations

import linecache
import traceback
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from finetune.config.build import build
from finetune.config.losses import filled, loss_nodes
from finetune.data.dataset import Dataset
from finetune.errors import CheckFailed, Problem


def build_losses(cfg: DictConfig, dataset: Dataset, width: int, one_source: bool = True) -> nn.ModuleList:
    """Return the run's loss, or one for each of several sources, told what only the run knows.

    `one_source` says that no batch mixes sources.

    Raises:
        CheckFailed: settings that a loss or the miner refuses.
    """
    miner = _told(OmegaConf.to_container(cfg.miner, resolve=True), "miner", "miner") if cfg.miner else None
    losses = []
    for place, (key, node) in enumerate(loss_nodes(cfg)):
        classes = dataset.classes(place if one_source else None).tolist()
        facts = {"miner": miner, "classes": classes, "class_count": len(classes), "width": width}
        losses.append(_told(filled(node, facts), "loss", key))
    return nn.ModuleList(losses)


def _told(node: Any, group: str, key: str) -> Any:
    """Build a node; what pytorch-metric-learning has against its settings is the answer to whoever set them."""
    try:
        return build(node, group)
    except (ValueError, AssertionError) as error:
        *_, (last, line) = traceback.walk_tb(error.__traceback__)
        if not last.f_globals["__name__"].startswith("pytorch_metric_learning."):
            raise
        why = " ".join(str(error).split()) or linecache.getline(last.f_code.co_filename, line).strip()
        what = f"pytorch-metric-learning refuses this: {why}."
        raise CheckFailed([Problem(key, what, "Change these settings.")]) from error
