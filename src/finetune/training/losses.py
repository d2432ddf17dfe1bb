"""The losses of a run, built from the config and the data."""

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
    """Return the run's loss, or one for each of several sources, given classes, miner and embedding width.

    `one_source` means that no batch mixes sources.

    Raises:
        CheckFailed: a loss or the miner rejects its settings.
    """
    miner = None
    if cfg.miner:
        miner = _build_checked(OmegaConf.to_container(cfg.miner, resolve=True), "miner", "miner")
    losses = []
    for source, (key, node) in enumerate(loss_nodes(cfg)):
        classes = dataset.classes(source if one_source else None).tolist()
        runtime = {"miner": miner, "classes": classes, "class_count": len(classes), "width": width}
        losses.append(_build_checked(filled(node, runtime), "loss", key))
    return nn.ModuleList(losses)


def _build_checked(node: Any, group: str, key: str) -> Any:
    """Build a node of the config.

    Raises:
        CheckFailed: pytorch-metric-learning rejects the settings, by an error of its own code.
    """
    try:
        return build(node, group)
    except (ValueError, AssertionError) as error:
        last_frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        if not last_frame.f_globals["__name__"].startswith("pytorch_metric_learning."):
            raise
        # An assertion without a message: its source line says what is expected.
        reason = " ".join(str(error).split()) or linecache.getline(last_frame.f_code.co_filename, line).strip()
        what = f"pytorch-metric-learning refuses this: {reason}."
        raise CheckFailed([Problem(key, what, "Change these settings.")]) from error


def layers_of(losses: nn.ModuleList) -> Sequence[int]:
    """Return the layers whose embeddings the losses need, in addition to the last.

    Raises:
        CheckFailed: the losses need different ones.
    """
    outer: list[tuple[int, ...]] = []
    inner: list[Loss] = []
    for loss in losses:
        outer.append(tuple(loss.layers) if isinstance(loss, Loss) else ())
        inner += [part for part in loss.modules() if part is not loss and isinstance(part, Loss)]
    if len(set(outer)) > 1 or any(part.layers for part in inner):
        what = "loss=layers has to be the outermost loss, and that of all sources."
        raise CheckFailed([Problem("loss.layers", what, "Put the other loss into it: loss@loss.loss=NAME.")])
    return outer[0]


def teacher_of(losses: nn.Module) -> str | None:
    """Return the teacher of the losses, None if they need none.

    Raises:
        CheckFailed: the losses have different teachers.
    """
    names = sorted({loss.teacher for loss in losses.modules() if isinstance(loss, Loss) and loss.teacher})
    if len(names) > 1:
        what = f"there are several teachers ({', '.join(names)})."
        raise CheckFailed([Problem("loss", what, "Use one for all losses of a run.")])
    return names[0] if names else None
