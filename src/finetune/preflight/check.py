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
from finetune.config.check import check_overrides, with_locations
from finetune.config.command_line import Arguments, is_cluster_override, is_sweep_override
from finetune.config.evaluators import needs_eval_data
from finetune.config.hydra_node import folder_is_set
from finetune.config.losses import loss_nodes
from finetune.config.values import has_own_sweeper
from finetune.errors import CheckFailed, Problem
from finetune.preflight.devices import check_devices, device_notes
from finetune.preflight.evaluators import (
    add_source_notes,
    check_sources,
    chosen_evaluation_problems,
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
    offline_problems,
    width,
)
from finetune.preflight.resume import LAUNCHER, composed, expected_folder
from finetune.preflight.slurm import check_slurm, slurm_notes, slurm_settings
from finetune.training.length import length_problems, limits_length

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset


def check_all(arguments: Arguments) -> tuple[Arguments, DictConfig, Dataset]:
    """Check the config, then all of the data, and return both, with the arguments of the run.

    Raises:
        CheckFailed: with everything that is wrong; if the config is, of the data only what a quick check finds.
    """
    arguments, cfg, problems = composed(arguments)
    if cfg is not None:
        problems = check_details(cfg, problems, is_a_job=is_for_cluster(arguments))
        if not problems:
            problems = offline_problems(cfg)
    if cfg is None or problems:
        raise CheckFailed(problems)
    signals.raise_on_interrupt()
    from finetune.data.load import load
    from finetune.data.settings import data_settings

    dataset = load(data_settings(cfg), cfg.seed)
    own, broken = load_sources(cfg)  # for their notes and problems: they are read again from the cache
    problems = [*check_fit(cfg, dataset), *broken]
    if problems:
        raise CheckFailed(problems)
    return arguments, cfg, add_source_notes(cfg, dataset, own)


def check_fit(cfg: DictConfig, dataset: Dataset) -> list[Problem]:
    """Return why the model cannot read these items, or the loss cannot learn from relations of this layout."""
    from omegaconf import OmegaConf

    problems = check_reads(cfg, dataset.items)
    problems += loss_problems(cfg, dataset)
    if cfg.negatives:
        from finetune.preflight.negatives import mined_data_problems

        problems += mined_data_problems(cfg, dataset)
    problems += chosen_evaluation_problems(cfg, dataset.held)
    if "texts" in dataset.layouts:
        what = "there is one column of texts, and no column that relates them."
        problems.append(Problem("data.columns", what, "Training needs pairs, or items with a label."))
    if limits_length(cfg.trainer):
        batches = batches_per_epoch(cfg, dataset)
        if batches:
            problems += length_problems(cfg.trainer, batches)
    needs_held_out = any(map(needs_eval_data, cfg.evaluation.values()))
    if needs_held_out and not dataset.held.found:
        key = evaluates(OmegaConf.to_container(cfg.callbacks))
        if key:
            what = "nothing is held out to evaluate on."
            problems.append(Problem(key, what, "Set data.validation_fraction=0.1, or leave it out."))
    return problems


def batches_per_epoch(cfg: DictConfig, dataset: Dataset) -> int:
    """Return the number of batches in an epoch; zero if there are no training relations."""
    from finetune.data.batching.mixing import BatchSettings, Epochs
    from finetune.data.settings import data_settings

    if len(dataset.train) == 0:
        return 0
    return len(Epochs(dataset.train, BatchSettings.from_data(data_settings(cfg)), cfg.seed))


def check_quickly(arguments: Arguments, overrides: list[str]) -> tuple[DictConfig | None, list[Problem]]:
    """Return the config and what is wrong with it, its model's folder, its output folder, its data file's head.

    What depends on a part of the config that is itself wrong is not checked.
    """
    cfg, problems = check_overrides(overrides, arguments.config_dir, arguments.config_name, multirun=arguments.multirun)
    if cfg is not None:
        problems = check_details(cfg, problems, is_a_job=is_for_cluster(arguments))
    return cfg, problems


def is_for_cluster(arguments: Arguments) -> bool:
    """Return whether the launcher of the config is used: a single run is a job only by `finetune submit`."""
    return arguments.multirun or LAUNCHER in arguments.overrides


def check_details(cfg: DictConfig, problems: list[Problem], *, is_a_job: bool) -> list[Problem]:
    """Return what is wrong with a composed config: these `problems`, and those of the files and models it names."""
    from finetune.data.open_sources import check_head
    from finetune.data.settings import data_settings

    wrong = {part for problem in problems for part in re.findall(r"^[+~]*(\w+)", problem.where)}
    models: list[PretrainedRef] = []
    embedding_width: int | None = None
    found: list[Problem] = []

    def check_models() -> list[Problem]:
        nonlocal models, embedding_width
        models, mistakes = inspect_models(cfg)
        embedding_width = width(cfg, models)
        return mistakes

    def check_machine() -> Iterable[Problem]:
        if is_a_job and slurm_settings(cfg):
            return check_slurm(cfg)
        return check_devices(cfg)

    # The parts of the config that a check reads, and the check.
    checks: list[tuple[set[str], Callable[[], Iterable[Problem]]]] = [
        ({"model"}, check_models),
        ({"model", "data"}, lambda: check_lengths(cfg, models)),
        ({"model", "loss"}, lambda: check_scores(cfg, losses_that_take_scores)),
        ({"model", "loss"}, lambda: check_teachers(models, embedding_width)),
        ({"model", "evaluation"}, lambda: evaluation_problems(cfg, embedding_width)),
        ({"evaluation", "callbacks", "sweep"}, lambda: _check_sweep_metric(cfg)),
        ({"data", "evaluation"}, lambda: check_sources(cfg)),
        ({"trainer", "hydra"}, check_machine),
        ({"output_root", "experiment", "name", "hydra"}, lambda: check_output(cfg)),
        ({"logger"}, lambda: logger_problems(cfg)),
        ({"loss"}, lambda: loss_settings("loss", cfg.loss, embedding_width)),
        ({"data", "loss"}, lambda: check_source_losses(cfg, embedding_width)),
        ({"data", "loss", "miner"}, lambda: miner_problems(cfg)),
        ({"data", "model", "negatives"}, lambda: _check_negatives(cfg)),
        ({"data"}, lambda: check_head(data_settings(cfg))),
    ]
    for parts, check in checks:
        if wrong & parts:
            continue
        try:
            found += check()
        except OmegaConfBaseException:
            if not problems:
                raise
            # It reads a value that is missing or cannot be resolved, which is among the problems already.
    return [*problems, *found]


def _check_sweep_metric(cfg: DictConfig) -> Iterable[Problem]:
    if cfg.sweep.get("metric") is None and cfg.sweep.get("prune_by") in (None, "auto"):
        return ()
    from finetune.preflight.sweep_metric import check_sweep_metric

    return check_sweep_metric(cfg)


def _check_negatives(cfg: DictConfig) -> Iterable[Problem]:
    if not cfg.negatives:
        return ()
    from finetune.preflight.negatives import negatives_problems

    return negatives_problems(cfg)


def check_source_losses(cfg: DictConfig, width: int | None) -> list[Problem]:
    """Check the losses that single sources of several have for themselves."""
    from finetune.config.arguments import check_node

    problems: list[Problem] = []
    for key, node in loss_nodes(cfg):
        if key != "loss":
            in_node = list(check_node(node, key, "loss"))
            problems += in_node or loss_settings(key, node, width)
    return problems


def check_output(cfg: DictConfig) -> list[Problem]:
    """Check that the run can be written into its folder; leaves nothing behind."""
    folder = expected_folder(cfg)
    key = "output_root"
    if folder_is_set(cfg):
        key = "hydra.run.dir"
    try:
        # The run's own folder may exist: then it is resumed. A broken link exists too, and is not a folder.
        existing = folder.absolute()
        while not os.path.lexists(existing):
            existing = existing.parent
        if existing == folder.absolute() and not folder_is_set(cfg):
            key = "name"
        if not existing.is_dir():
            return [Problem(key, _describe_no_folder(existing), f"Choose another place with {key}=...")]
        # This has to be tried: a file system may be read-only, or have no real files (/proc).
        Path(tempfile.mkdtemp(prefix=".finetune-", dir=existing)).rmdir()
    except OSError as error:
        what = f"{existing} may not be written ({error.strerror})."
        return [Problem(key, what, f"Choose another place with {key}=...")]
    return []


def _describe_no_folder(path: Path) -> str:
    if not path.is_symlink():
        return f"{path} is a file."
    if path.exists():
        return f"{path} is a link to a file."
    return f"{path} is a link to {path.readlink()}, which does not exist."


@dataclass(frozen=True)
class CheckedRun:
    """A run whose config and data have been checked, ready to be started.

    `notes` are sentences about what is valid and may still be unexpected. `missing_models` are those that a run would
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
    is_a_job = is_for_cluster(arguments)
    notes = [*dataset.notes, *_batch_notes(cfg, dataset)]
    if is_a_job and slurm_settings(cfg):
        notes += slurm_notes(cfg)
    else:
        notes += device_notes(cfg)
    notes += model_notes(cfg, models)
    notes += unused_eval_data_note(cfg, dataset.held)
    notes += evaluation_notes(cfg, dataset.held)
    notes += _unused_notes(cfg, is_a_job=is_a_job)
    missing = [model.name for model in models if model.folder is None]
    return CheckedRun(arguments, cfg, dataset, notes, missing)


def check_single_run(arguments: Arguments, *, is_a_job: bool = False) -> None:
    """Check that no override is an option of a sweep, nor one of a cluster unless the run is to be a job.

    Raises:
        CheckFailed: some are.
    """
    of_sweep = [text for text in arguments.overrides if is_sweep_override(text)]
    if of_sweep:
        what = "this is an option of a sweep, and this is a single run."
        raise CheckFailed(Problem(text, what, "Leave it out, or add -m.") for text in of_sweep)
    of_cluster = [text for text in arguments.overrides if is_cluster_override(text)]
    if of_cluster and not is_a_job:
        what = "this is an option of a cluster, and this is a run on this machine."
        raise CheckFailed(Problem(text, what, "Leave it out, or use finetune submit.") for text in of_cluster)


def check_not_dry(checked: CheckedRun) -> None:
    """Check that a run on this machine is not to be a dry run, which prints the script of a job.

    Raises:
        CheckFailed: it is.
    """
    if checked.cfg.dry_run:
        where = checked.arguments.config_dir, checked.arguments.config_name
        what = "there is no script of a job to print: this is a run on this machine."
        problems = [Problem("dry_run", what, "Use finetune submit, or write dry_run=false.")]
        raise CheckFailed(with_locations(problems, checked.arguments.overrides, *where))


def _unused_notes(cfg: DictConfig, *, is_a_job: bool) -> list[str]:
    """Return which settings of a file have no effect on a single run here; a process of a sweep or a job has none."""
    if folder_is_set(cfg):
        return []
    notes = []
    if has_own_sweeper(cfg):
        notes.append("The config chooses hydra/sweeper=optuna, and this is one run: add -m to search.")
    if slurm_settings(cfg) is not None and not is_a_job:
        notes.append("The config chooses hydra/launcher=slurm, and this runs here: use finetune submit for a job.")
    return notes


def _batch_notes(cfg: DictConfig, dataset: Dataset) -> list[str]:
    size, pairs = cfg.data.batch_size, len(dataset.train)
    batches, accumulated = math.ceil(pairs / size), cfg.trainer.get("accumulate_grad_batches", 1)
    if accumulated > batches:
        what = f"trainer.accumulate_grad_batches is {accumulated}, but an epoch has about {batches:,} batches"
        return [f"{what} of data.batch_size={size}: each step takes those of a whole epoch, and no more."]
    if size <= pairs:
        return []
    return [f"data.batch_size is {size}, but there are {pairs} training pairs: each step takes them all."]
