"""The length of a training, from the config and the number of batches; imports no torch, for the config check."""

from __future__ import annotations

import math
from typing import cast

from omegaconf import DictConfig

from finetune.errors import CheckFailed, Problem

# The goal of trainer.max_epochs=auto: with a few hundred pairs one epoch has only a few steps, too few to learn from.
_MIN_STEPS = 100
_MAX_EPOCHS = 10
_DEFAULT_EPOCHS_OF_LIGHTNING = 1000  # if neither max_epochs nor max_steps is set


def resolve_epochs(node: DictConfig, batches_per_epoch: int) -> int | None:
    """Return `max_epochs`, with `auto` replaced: no limit if `max_steps` is set, else more epochs for little data."""
    if node.get("max_epochs") != "auto":
        return cast(int | None, node.get("max_epochs"))
    if (node.get("max_steps") or -1) > 0:
        return -1
    batches = limit_batches(node.get("limit_train_batches"), batches_per_epoch)
    steps = math.ceil(batches / int(node.get("accumulate_grad_batches") or 1))
    return min(_MAX_EPOCHS, max(1, math.ceil(_MIN_STEPS / steps)))


def limit_batches(limit: int | float | None, batches_per_epoch: int) -> int:
    """Return the batches of one epoch under `limit_train_batches`: a number of them, or a fraction.

    Raises:
        CheckFailed: the fraction is less than one batch.
    """
    if limit is None:
        return batches_per_epoch
    batches = min(batches_per_epoch, limit) if isinstance(limit, int) else int(limit * batches_per_epoch)
    if batches == 0:
        what = f"{limit:g} of the {batches_per_epoch} batches of an epoch is less than one batch."
        raise CheckFailed([Problem("trainer.limit_train_batches", what, "Set a number of batches, or a larger share.")])
    return batches


def limits_length(node: DictConfig) -> bool:
    """Whether `length_problems` can find any: only then are the batches counted, which plans a whole epoch."""
    return any(node.get(key) is not None for key in ("limit_train_batches", "min_steps", "min_epochs"))


def length_problems(node: DictConfig, batches_per_epoch: int) -> list[Problem]:
    """Return the settings of the trainer that are impossible with this number of batches.

    These are a fraction of the batches that is less than one, and minimums that the training does not reach, which
    Lightning would ignore.
    """
    try:
        batches = limit_batches(node.get("limit_train_batches"), batches_per_epoch)
    except CheckFailed as failed:
        return list(failed.problems)
    steps_per_epoch = math.ceil(batches / int(node.get("accumulate_grad_batches") or 1))
    steps = _max_steps(node, batches_per_epoch, steps_per_epoch)
    problems = []
    for unit, length in (("steps", steps), ("epochs", steps / steps_per_epoch)):
        minimum = node.get(f"min_{unit}")
        if minimum and length < minimum:
            what = f"the training has {length:.3g} {unit}, fewer than {minimum}."
            advice = "Raise trainer.max_epochs or trainer.max_steps, or leave it out."
            problems.append(Problem(f"trainer.min_{unit}", what, advice))
    return problems


def _max_steps(node: DictConfig, batches_per_epoch: int, steps_per_epoch: int) -> float:
    """Return the most optimizer steps that `max_epochs` and `max_steps` allow."""
    epochs, max_steps = resolve_epochs(node, batches_per_epoch), int(node.get("max_steps") or -1)
    if epochs is None and max_steps <= 0:
        epochs = _DEFAULT_EPOCHS_OF_LIGHTNING
    steps = math.inf
    if epochs is not None and epochs > 0:
        steps = epochs * steps_per_epoch
    if max_steps > 0:
        steps = min(steps, max_steps)
    return steps
