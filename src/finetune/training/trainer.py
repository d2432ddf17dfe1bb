"""Builds Lightning's Trainer for a run, and resolves `auto` in its settings."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy, Strategy

from finetune import devices, ranks
from finetune.config.build import build
from finetune.errors import CheckFailed, FinetuneError
from finetune.runs.directory import RunDirectory
from finetune.training.checkpoint_io import AtomicCheckpointIO
from finetune.training.fsdp import Fsdp
from finetune.training.length import limit_batches, resolve_epochs
from finetune.training.no_teardown import NoTeardownAfterError
from finetune.wait_notice import MAX_WAIT

_TIMEOUT_MARGIN = timedelta(minutes=1)


def silence_lightning() -> None:
    """Hide Lightning's own messages: the run prints the same, and under Hydra each would be printed twice."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")
    # In fp16 the first updates are often skipped, until the scale of the gradients is found.
    warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`")


def build_trainer(
    node: DictConfig,
    run: RunDirectory,
    batches_per_epoch: int,
    callbacks: list[Any],
    loggers: list[Any],
    collective_timeout: timedelta = MAX_WAIT,
) -> pl.Trainer:
    """Build Lightning's Trainer from the settings of the config, and from what is the same in every run.

    `collective_timeout` is how long processes wait for each other in a collective operation.

    Raises:
        CheckFailed: `limit_train_batches` is less than one batch.
        FinetuneError: Lightning does not support the settings on this machine.
    """
    settings, rank = node.copy(), ranks.current_rank()
    settings.precision = resolve_precision(node.precision, node.accelerator)
    settings.max_epochs = resolve_epochs(node, batches_per_epoch)
    settings.num_nodes = rank.machines
    if rank.world > 1 and not isinstance(node.devices, ListConfig):
        settings.devices = rank.local_world
    # Built by the run: for max_time its own callback, since Lightning's would stop after the last checkpoint.
    OmegaConf.set_struct(settings, False)
    for name in ("strategy", "max_time", "profiler"):
        settings.pop(name, None)
    strategy = _strategy(node.strategy, rank, collective_timeout)
    try:
        return _build_trainer(settings, run, callbacks, loggers, strategy, _profiler(node.get("profiler"), run))
    except CheckFailed:
        raise
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        # Only Lightning can check what the settings need of this machine, such as a GPU.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise FinetuneError(f"trainer: Lightning refuses these settings on this machine: {reason}") from error


def _build_trainer(
    settings: DictConfig,
    run: RunDirectory,
    callbacks: list[Any],
    loggers: list[Any],
    strategy: Strategy | str,
    profiler: Profiler | None,
) -> pl.Trainer:
    # All processes are running already (runner/spawn.py). Lightning's own environment for SLURM would requeue the job.
    environment: ClusterEnvironment = TorchElasticEnvironment()
    if isinstance(strategy, str):
        environment = LightningEnvironment()
    trainer: pl.Trainer = build(
        settings,
        "trainer",
        callbacks=callbacks,
        logger=loggers,
        strategy=strategy,
        profiler=profiler,
        plugins=[AtomicCheckpointIO(), environment],
        default_root_dir=str(run.path),
        enable_checkpointing=False,  # callbacks/checkpoint.py saves instead: atomically, and it overwrites
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # data/batching/ makes the batches
    )
    return trainer


def _profiler(name: str | None, run: RunDirectory) -> Profiler | None:
    """Return a profiler that writes into the run directory: it keeps no summary after the training."""
    if name is None:
        return None
    classes = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    profiler: Profiler = classes[name](dirpath=run.path, filename="profile")
    return profiler


class _Ddp(NoTeardownAfterError, DDPStrategy):
    """A copy of the model in each process; weights that no process used in a step stay the same, as in one process."""

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(find_unused_parameters=True, timeout=timeout)

    def block_backward_sync(self) -> Any:
        """Sum the gradients over the processes after every batch, even if several batches are accumulated.

        With one sum after the last batch, DDP would skip weights that only earlier batches used.
        """
        return contextlib.nullcontext()


def _strategy(name: str, rank: ranks.RankInfo, collective_timeout: timedelta) -> Strategy | str:
    if rank.world == 1:
        return "auto"
    # The run ends first, and says which process is missing (runner/stall.py); NCCL would abort it without a reason.
    timeout = collective_timeout + _TIMEOUT_MARGIN
    if name == "fsdp":
        return Fsdp(rank.world, timeout)
    return _Ddp(timeout)


def resolve_precision(precision: str | int | None, accelerator: str) -> str | int | None:
    """Return `precision`, with `auto` replaced: bf16-mixed if the device has instructions for bf16, or else 32-true."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if devices.of(devices.choose(accelerator)).has_bf16() else "32-true"


def total_steps(trainer: pl.Trainer, batches_per_epoch: int) -> int:
    """Return the optimizer steps of the whole run.

    Lightning's own estimate would create the data loader before a resumed run sets its position, which would be lost.
    """
    limits, per_epoch = [], steps_per_epoch(trainer, batches_per_epoch)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        limits.append(trainer.max_epochs * per_epoch)
    if trainer.max_steps > 0:
        limits.append(trainer.max_steps)
    return int(min(limits))


def steps_per_epoch(trainer: pl.Trainer, batches_per_epoch: int) -> int:
    """Return the optimizer steps of one epoch, under `limit_train_batches`."""
    batches = limit_batches(trainer.limit_train_batches, batches_per_epoch)
    return math.ceil(batches / trainer.accumulate_grad_batches)
