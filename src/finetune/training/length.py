"""How long a training is, from the config and the number of batches; imports no torch, since the check asks it too."""

from __future__ import annotations

import math
from typing import cast

from omegaconf import DictConfig

from finetune.errors import CheckFailed, Problem

# What trainer.max_epochs=auto aims at: a few hundred pairs in one pass are a handful of steps, which teach nothing.
_FEWEST_STEPS = 100
_MOST_EPOCHS = 10
_EPOCHS_OF_LIGHTNING = 1000  # where neither max_epochs nor max_steps is set


def resolve_epochs(node: DictConfig, batches_per_epoch: int) -> int | None:
    """Return `max_epochs`, with `auto` replaced: no limit if `max_steps` is one, else some passes over little data."""
    if node.get("max_epochs") != "auto":
        return cast(int | None, node.get("max_epochs"))
    if (node.get("max_steps") or -1) > 0:
        return -1
    batches = limited(node.get("limit_train_batches"), batches_per_epoch)
    steps = math.ceil(batches / int(node.get("accumulate_grad_batches") or 1))
    return min(_MOST_EPOCHS, max(1, math.ceil(_FEWEST_STEPS / steps)))


def limited(limit: int | float | None, batches_per_epoch: int) -> int:
    """Return the batches of one pass that `limit_train_batches` lets through: a number of them, or a share.

    Raises:
        CheckFailed: the share is less than one batch.
    """
    if limit is None:
        return batches_per_epoch
    batches = min(batches_per_epoch, limit) if isinstance(limit, int) else int(limit * batches_per_epoch)
    if batches == 0:
        what = f"{limit:g} of the {batches_per_epoch} batches of an epoch is less than one batch."
        raise CheckFailed([Problem("trainer.limit_train_batches", what, "Set a number of batches, or a larger share.")])
    return batches


def limits_length(node: DictConfig) -> bool:
    """Whether `length_problems` can find any: the batches have to be counted only then, which plans a whole pass."""
    return any(node.get(key) is not None for key in ("limit_train_batches", "min_steps", "min_epochs"))


def length_problems(node: DictConfig, batches_per_epoch: int) -> list[Problem]:
    """Return which settings of the trainer cannot be met with so many batches.

    These are a share of the batches that is less than one, and minimums that the training does not reach, which
    Lightning would ignore.
    """
    try:
        batches = limited(node.get("limit_train_batches"), batches_per_epoch)
    except CheckFailed as failed:
        return list(failed.problems)
    steps_of_epoch = math.ceil(batches / int(node.get("accumulate_grad_batches") or 1))
    steps = _most_steps(node, batches_per_epoch, steps_of_epoch)
    wanted = (("steps", node.get("min_steps"), steps), ("epochs", node.get("min_epochs"), steps / steps_of_epoch))
    return [
        Problem(
            f"trainer.min_{unit}",
            f"the training has {found:.3g} {unit}, fewer than {least}.",
            "Raise trainer.max_epochs or trainer.max_steps, or leave it out.",
        )
        for unit, least, found in wanted
        if least and found < least
    ]


def _most_steps(node: DictConfig, batches_per_epoch: int, steps_of_epoch: int) -> float:
    epochs, max_steps = resolve_epochs(node, batches_per_epoch), int(node.get("max_steps") or -1)
    if epochs is None and max_steps <= 0:
        epochs = _EPOCHS_OF_LIGHTNING
    steps = epochs * steps_of_epoch if epochs is not None and epochs > 0 else math.inf
    return min(steps, max_steps if max_steps > 0 else math.inf)
