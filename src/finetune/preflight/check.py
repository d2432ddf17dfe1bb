"""Everything that is checked before a run starts: its config, what the config names, and its data."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf.errors import OmegaConfBaseException

from finetune import signals
from finetune.config.callbacks import evaluates
from finetune.config.check import check_overrides
from finetune.config.command_line import Arguments
from finetune.config.evaluators import needs_eval_data
from finetune.config.hydra_node import folder_is_set
from finetune.config.losses import loss_nodes
from finetune.config.values import has_own_sweeper
from finetune.errors import CheckFailed, Problem
from finetune.preflight.devices import check_devices, device_notes
from finetune.preflight.evaluators import (
    add_source_notes,
    check_sources,
    evaluation_notes,
    evaluation_problems,
    load_sources,
    unused_eval_data_note,
)
from finetune.preflight.loggers import logger_problems
from finetune.preflight.losses import loss_problems, loss_settings, losses_that_take_scores
from finetune.preflight.metric_learning import miner_problems
from finetune.preflight.models import (
    PretrainedRef,
    check_lengths,
    check_reads,
    check_scores,
    check_teachers,
    inspect_models,
    model_notes,
    models_of,
    width,
)
from finetune.preflight.resume import LAUNCHER, composed, named_folder
from finetune.preflight.slurm import check_slurm, settings_of, slurm_notes
from finetune.training.length import length_problems, limits_length

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset


def check_all(arguments: Arguments) -> tuple[Arguments, DictConfig, Dataset]:
    """Check the config, then all of the data, and return both ready to be used, with the arguments of the run.

    Raises:
        CheckFailed: with everything that is wrong; of the data only what shows at a glance if anything else is wrong.
    """
    arguments, cfg, problems = composed(arguments)
    if cfg is not None:
        problems = check_details(cfg, problems, is_a_job=is_for_a_cluster(arguments))
    if cfg is None or problems:
        raise CheckFailed(problems)
    signals.raise_from_now_on()
    from finetune.data.load import load  # imports NumPy and Arrow: mistakes in the config are reported without them
    from finetune.data.settings import data_settings

    dataset = load(data_settings(cfg), cfg.seed)
    own, broken = load_sources(cfg)  # for what is to be said of them: they are read again from the cache
    if unfit := [*check_fit(cfg, dataset), *broken]:
        raise CheckFailed(unfit)
    return arguments, cfg, add_source_notes(cfg, dataset, own)


def check_fit(cfg: DictConfig, dataset: Dataset) -> list[Problem]:
    """Return why the model cannot read these items, or the loss cannot learn from relations of this layout."""
    from omegaconf import OmegaConf

    problems = check_reads(cfg, dataset.items)
    problems += loss_problems(cfg, dataset)
    if "texts" in dataset.layouts:
        what = "there is one column of texts, and nothing says which of them belong together."
        problems.append(Problem("data.columns", what, "Training needs pairs, or items with a label."))
    if limits_length(cfg.trainer) and (batches := batches_per_epoch(cfg, dataset)):
        problems += length_problems(cfg.trainer, batches)
    needed = any(map(needs_eval_data, cfg.evaluation.values()))
    if needed and not dataset.held.found and (key := evaluates(OmegaConf.to_container(cfg.callbacks))):
        what = "nothing is held out to evaluate on."
        problems.append(Problem(key, what, "Set data.validation_fraction=0.1, or leave it out."))
    return problems


def batches_per_epoch(cfg: DictConfig, dataset: Dataset) -> int:
    """Return the batches of one pass over the training relations; zero if none can be made of them."""
    from finetune.data.batching.mixing import BatchSettings, Epochs
    from finetune.data.settings import data_settings

    if not len(dataset.train):
        return 0
    return len(Epochs(dataset.train, BatchSettings.from_data(data_settings(cfg)), cfg.seed))


def check_at_a_glance(arguments: Arguments, overrides: list[str]) -> tuple[DictConfig | None, list[Problem]]:
    """Return the config and what is wrong with it, its model's folder, its output folder, its data file's head.

    What belongs to a part of the config that is itself wrong is not looked at.
    """
    cfg, problems = check_overrides(overrides, arguments.config_dir, arguments.config_name, multirun=arguments.multirun)
    if cfg is not None:
        problems = check_details(cfg, problems, is_a_job=is_for_a_cluster(arguments))
    return cfg, problems


def is_for_a_cluster(arguments: Arguments) -> bool:
    """Return whether what the config asks of a cluster is meant: a single run is a job only by `finetune submit`."""
    return arguments.multirun or LAUNCHER in arguments.overrides


def check_details(cfg: DictConfig, problems: list[Problem], *, is_a_job: bool) -> list[Problem]:
    """Return what is wrong with a composed config, which are these `problems` and those of what it names."""
    from finetune.data.open_sources import check_head
    from finetune.data.settings import data_settings

    wrong = {part for problem in problems for part in re.findall(r"^[+~]*(\w+)", problem.where)}
    models: list[PretrainedRef] = []
    embedding_width: int | None = None
    found: list[Problem] = []

    def look_at_the_models() -> list[Problem]:
        nonlocal models, embedding_width
        models, mistakes = inspect_models(cfg)
        embedding_width = width(cfg, models)
        return mistakes

    looks: list[tuple[set[str], Callable[[], Iterable[Problem]]]] = [
        ({"model"}, look_at_the_models),
        ({"model", "data"}, lambda: check_lengths(cfg, models)),
        ({"model", "loss"}, lambda: check_scores(cfg, losses_that_take_scores)),
        ({"model", "loss"}, lambda: check_teachers(models, embedding_width)),
        ({"model", "evaluation"}, lambda: evaluation_problems(cfg, embedding_width)),
        ({"data", "evaluation"}, lambda: check_sources(cfg)),
        ({"trainer", "hydra"}, lambda: check_slurm(cfg) if is_a_job and settings_of(cfg) else check_devices(cfg)),
        ({"output_root", "experiment", "name", "hydra"}, lambda: check_output(cfg)),
        ({"logger"}, lambda: logger_problems(cfg)),
        ({"loss"}, lambda: loss_settings("loss", cfg.loss, embedding_width)),
        ({"data", "loss"}, lambda: check_source_losses(cfg, embedding_width)),
        ({"data", "loss", "miner"}, lambda: miner_problems(cfg)),
        ({"data"}, lambda: check_head(data_settings(cfg))),
    ]
    for parts, looking in looks:
        if wrong & parts:
            continue
        try:
            found += looking()
        except OmegaConfBaseException:
            if not problems:
                raise
            # It reads a value that is missing or cannot be resolved, which is among the problems already.
    return [*problems, *found]


def check_source_losses(cfg: DictConfig, width: int | None) -> list[Problem]:
    """Look at what each of several sources has for a loss of its own."""
    from finetune.config.arguments import check_node

    problems: list[Problem] = []
    for key, node in loss_nodes(cfg):
        if key != "loss":
            problems += [*check_node(node, key, "loss")] or [*loss_settings(key, node, width)]
    return problems


def check_output(cfg: DictConfig) -> list[Problem]:
    """Check that the run can be written into its folder; leaves nothing behind."""
    folder = named_folder(cfg) or Path(cfg.output_root) / cfg.experiment / "NEW"
    key = "hydra.run.dir" if folder_is_set(cfg) else "output_root"
    try:
        # The run's own folder may exist: then it is resumed. A link to nothing exists too, and cannot be one.
        around = [folder.absolute(), *folder.absolute().parents]
        there = next(each for each in around if os.path.lexists(each))
        if there == folder.absolute() and not folder_is_set(cfg):
            key = "name"
        if not there.is_dir():
            return [Problem(key, _no_folder(there), f"Choose another place with {key}=...")]
        # Only trying tells: a file system may be read-only, or made of something else than files (/proc).
        Path(tempfile.mkdtemp(prefix=".finetune-", dir=there)).rmdir()
    except OSError as error:
        return [Problem(key, f"{there} may not be written ({error.strerror}).", f"Choose another place with {key}=...")]
    return []


def _no_folder(path: Path) -> str:
    if not path.is_symlink():
        return f"{path} is a file."
    if path.exists():
        return f"{path} is a link to a file."
    return f"{path} is a link to {path.readlink()}, and no folder is found there."


@dataclass(frozen=True)
class CheckedRun:
    """A run with nothing wrong in its config and data, ready to be started.

    `notes` are sentences about what is allowed and may still be unexpected. `missing_models` are those that a run would
    download from the hub.
    """

    arguments: Arguments
    cfg: DictConfig
    dataset: Dataset
    notes: list[str]
    missing_models: list[str]


def check_run(arguments: Arguments) -> CheckedRun:
    """Check the config of a run and all of its data.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    arguments, cfg, dataset = check_all(arguments)
    models = models_of(cfg)
    is_a_job = is_for_a_cluster(arguments)
    notes = slurm_notes(cfg) if is_a_job and settings_of(cfg) else device_notes(cfg)
    notes = [*dataset.notes, *_batch_notes(cfg, dataset), *notes, *model_notes(cfg, models)]
    notes += [
        *unused_eval_data_note(cfg, dataset.held),
        *evaluation_notes(cfg, dataset.held),
        *_unused_notes(cfg, is_a_job=is_a_job),
    ]
    missing = [model.name for model in models if model.folder is None]
    return CheckedRun(arguments, cfg, dataset, notes, missing)


def _unused_notes(cfg: DictConfig, *, is_a_job: bool) -> list[str]:
    """Say which settings of a file mean nothing for a single run here; a process of a sweep or of a job knows."""
    if folder_is_set(cfg):
        return []
    notes = []
    if has_own_sweeper(cfg):
        notes.append("The config chooses hydra/sweeper=optuna, and this is one run: add -m to search.")
    if settings_of(cfg) is not None and not is_a_job:
        notes.append("The config chooses hydra/launcher=slurm, and this runs here: use finetune submit for a job.")
    return notes


def _batch_notes(cfg: DictConfig, dataset: Dataset) -> list[str]:
    size, there = cfg.data.batch_size, len(dataset.train)
    batches, together = math.ceil(there / size), cfg.trainer.get("accumulate_grad_batches", 1)
    if together > batches:
        what = f"trainer.accumulate_grad_batches is {together}, but an epoch has about {batches:,} batches"
        return [f"{what} of data.batch_size={size}: each step takes those of a whole epoch, and no more."]
    if size <= there:
        return []
    return [f"data.batch_size is {size}, but there are {there} training pairs: each step takes them all."]
