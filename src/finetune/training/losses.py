"""The losses of a run, built and told what only the run knows."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from finetune.config.build import build
from finetune.config.losses import filled, loss_nodes
from finetune.data.dataset import Dataset
from finetune.errors import CheckFailed, Problem
from finetune.losses.loss import Loss


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


def layers_of(losses: nn.ModuleList) -> Sequence[int]:
    """Return the layers that the losses want the embeddings of.

    Raises:
        CheckFailed: they do not want the same ones.
    """
    wanted = [tuple(loss.layers) if isinstance(loss, Loss) else () for loss in losses]
    inside = [inner for loss in losses for inner in loss.modules() if inner is not loss and isinstance(inner, Loss)]
    if len(set(wanted)) > 1 or any(inner.layers for inner in inside):
        what = "loss=layers must stand outside of all other losses, and be that of all sources."
        raise CheckFailed([Problem("loss.layers", what, "Put the other loss into it: loss@loss.loss=NAME.")])
    return wanted[0]


def teacher_of(losses: nn.Module) -> str | None:
    """Return the teacher that the losses ask for.

    Raises:
        CheckFailed: they ask for several.
    """
    names = sorted({loss.teacher for loss in losses.modules() if isinstance(loss, Loss) and loss.teacher})
    if len(names) > 1:
        what = f"there are several teachers ({', '.join(names)})."
        raise CheckFailed([Problem("loss", what, "Take one for all losses of a run.")])
    return names[0] if names else None
