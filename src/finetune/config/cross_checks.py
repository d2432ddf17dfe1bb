"""Checks of combinations of values that are valid individually."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.config.callbacks import check_callbacks
from finetune.config.home import expand_home
from finetune.errors import Problem


def check_combinations(tree: dict[str, Any], *, folder_is_set: bool) -> Iterator[Problem]:
    """Yield problems between keys of the resolved tree, which includes the directories of `hydra`.

    `folder_is_set`: hydra.run.dir sets the run directory.
    """
    trainer = tree.get("trainer")
    if isinstance(trainer, dict):
        yield from _check_trainer(trainer)
        if trainer.get("strategy") == "fsdp":
            yield from _check_fsdp(tree)
    yield from _check_optimizer(_ours(tree.get("optimizer"), "torch.optim."))
    yield from _check_scheduler(_ours(tree.get("scheduler"), "finetune.training.schedules."))
    yield from check_callbacks(tree)
    run_directory = tree["hydra"]["run"]["dir"]
    for key, value in (("output_root", tree.get("output_root")), ("hydra.run.dir", run_directory)):
        # hydra.run.dir contains ${output_root}, so one message is enough.
        if isinstance(value, str) and value.startswith("~"):
            home = expand_home(value) if value == "~" or value.startswith("~/") else "/home/..."
            yield Problem(key, f"'{value}' would be a folder named ~, not your home folder.", f"Write {key}={home}")
            break
    if tree.get("output_root") in ("None", "null"):
        what = f"'{tree['output_root']}' is a text here, and would be the name of a folder."
        yield Problem("output_root", what, "Leave it out for the folder outputs.")
    if isinstance(tree.get("resume"), bool):
        # YAML reads on, off, yes and no in the same way.
        advice = "resume=auto resumes an unfinished run of the same name; resume=never refuses it."
        yield Problem("resume", f"expected auto, never or a path, found {str(tree['resume']).lower()}.", advice)
    if tree.get("dry_run") is True and "launcher" not in tree["hydra"]:
        advice = "Use finetune submit, or hydra/launcher=slurm in a sweep; check=true only checks."
        yield Problem("dry_run", "there is no script to print: this is not for a cluster.", advice)
    if folder_is_set:
        yield from _check_name(tree.get("name"), run_directory)


def _check_trainer(trainer: dict[str, Any]) -> Iterator[Problem]:
    if trainer.get("max_epochs", -1) in (None, -1) and trainer.get("max_steps", -1) == -1:
        what = "without trainer.max_steps as well, the training would never end."
        yield Problem("trainer.max_epochs", what, "Set one: trainer.max_epochs=auto or trainer.max_steps=1000.")
    if trainer.get("gradient_clip_algorithm") and not trainer.get("gradient_clip_val"):
        what = "nothing is clipped: trainer.gradient_clip_val is not set."
        yield Problem("trainer.gradient_clip_algorithm", what, "Set trainer.gradient_clip_val=1.0.")
    yield from _check_minimum(trainer, "steps")
    yield from _check_minimum(trainer, "epochs")
    devices = trainer.get("devices")
    if trainer.get("accelerator") == "cpu" and (devices == -1 or isinstance(devices, list)):
        what = "on a CPU this is the number of processes, an integer of at least 1."
        yield Problem("trainer.devices", what, "Set trainer.devices=1.")


def _check_minimum(trainer: dict[str, Any], unit: str) -> Iterator[Problem]:
    least, most = trainer.get(f"min_{unit}"), trainer.get(f"max_{unit}")
    if isinstance(least, int) and isinstance(most, int) and 0 < most < least:
        what = f"it is more than trainer.max_{unit}={most}, which ends the training."
        yield Problem(f"trainer.min_{unit}", what, f"Set trainer.min_{unit}={most} or less.")


def _check_fsdp(tree: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each part that needs unsharded weights."""
    needs = "it needs unsharded weights, and trainer.strategy=fsdp shards them."
    optimizer = tree.get("optimizer")
    if isinstance(optimizer, dict) and re.search(r"Muon|Adafactor", str(optimizer.get("_target_"))):
        yield Problem("optimizer", needs, "Set optimizer=adamw, or trainer.strategy=ddp.")
    callbacks = tree.get("callbacks")
    if not isinstance(callbacks, dict):
        return
    for name, node in callbacks.items():
        if isinstance(node, dict) and str(node.get("_target_")) == "finetune.training.callbacks.Average":
            yield Problem(f"callbacks.{name}", needs, f"Leave it out: ~callbacks.{name}; or set trainer.strategy=ddp.")


def _ours(node: Any, prefix: str) -> dict[str, Any]:
    """Return the node if its target is below `prefix`, else an empty one: other targets may use other parameters."""
    if isinstance(node, dict) and str(node.get("_target_")).startswith(prefix):
        return node
    return {}


def _check_optimizer(optimizer: dict[str, Any]) -> Iterator[Problem]:
    if optimizer.get("nesterov") is True and optimizer.get("momentum", 0) == 0:
        what = "Nesterov momentum needs momentum, and optimizer.momentum is 0."
        yield Problem("optimizer.nesterov", what, "Set optimizer.momentum=0.9, or optimizer.nesterov=false.")
    elif optimizer.get("nesterov") is True and optimizer.get("dampening", 0) != 0:
        yield Problem("optimizer.nesterov", "it allows no dampening.", "Set optimizer.dampening=0.")


def _check_scheduler(scheduler: dict[str, Any]) -> Iterator[Problem]:
    warmup, cooldown = scheduler.get("warmup"), scheduler.get("cooldown")
    if isinstance(warmup, int | float) and isinstance(cooldown, int | float) and warmup + cooldown > 1:
        what = f"warm-up and cool-down together are {warmup + cooldown:g} of all steps, which is more than 1."
        yield Problem("scheduler.cooldown", what, f"Set scheduler.cooldown={max(0, 1 - warmup):g} or less.")


def _check_name(name: object, run_directory: object) -> Iterator[Problem]:
    if isinstance(name, str) and isinstance(run_directory, str) and Path(run_directory).name != name:
        what = f"the run directory is named '{Path(run_directory).name}' here and '{name}' in name."
        yield Problem("hydra.run.dir", what, "Give one of the two.")
