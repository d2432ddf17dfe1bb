"""Lightning's Trainer, with what every run needs and what `auto` stands for."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy, Strategy

from finetune import ranks
from finetune.config.build import build
from finetune.errors import CheckFailed, FinetuneError
from finetune.runs.directory import RunDirectory
from finetune.training.checkpoint_io import AtomicCheckpointIO
from finetune.training.fsdp import Fsdp
from finetune.training.length import limited, resolve_epochs


def build_trainer(
    node: DictConfig, run: RunDirectory, batches_per_epoch: int, callbacks: list[Any], loggers: list[Any]
) -> pl.Trainer:
    """Build Lightning's Trainer with what every run needs and no config should have to say."""
    settings, here = node.copy(), ranks.current_rank()
    settings.precision = resolve_precision(node.precision, node.accelerator)
    settings.max_epochs = resolve_epochs(node, batches_per_epoch)
    settings.num_nodes = here.machines
    if here.world > 1 and not isinstance(node.devices, ListConfig):
        settings.devices = here.local_world
    # What the run builds itself; of max_time that is a callback, since Lightning's would stop after the last save.
    OmegaConf.set_struct(settings, False)
    for name in ("strategy", "max_time", "profiler"):
        settings.pop(name, None)
    strategy = _strategy(node.strategy, here)
    try:
        return _build_trainer(settings, run, callbacks, loggers, strategy, _profiler(node.get("profiler"), run))
    except CheckFailed:
        raise
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        # What it needs of this machine (a GPU, a strategy's package) only Lightning itself knows.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FinetuneError(f"trainer: Lightning refuses these settings on this machine: {reason}") from error


def _build_trainer(
    settings: DictConfig,
    run: RunDirectory,
    callbacks: list[Any],
    loggers: list[Any],
    strategy: Strategy | str,
    profiler: Profiler | None,
) -> pl.Trainer:
    # All processes are there already (runner/spawn.py). What Lightning itself finds under SLURM would requeue the job.
    processes_of_run = LightningEnvironment() if isinstance(strategy, str) else TorchElasticEnvironment()
    trainer: pl.Trainer = build(
        settings,
        "trainer",
        callbacks=callbacks,
        logger=loggers,
        strategy=strategy,
        profiler=profiler,
        plugins=[AtomicCheckpointIO(), processes_of_run],
        default_root_dir=str(run.path),
        enable_checkpointing=False,  # Checkpoint is ours: atomic, and it overwrites instead of counting up
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # batches are cut by data/batching/batches.py
    )
    return trainer


def _profiler(name: str | None, run: RunDirectory) -> Profiler | None:
    """Return a profiler that writes into the run directory: its summary is gone once the training has ended."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return None if name is None else kinds[name](dirpath=run.path, filename="profile")


class _Ddp(DDPStrategy):
    """Each process with the whole model; what no process used in a step stays as it was, as with one process."""

    def __init__(self) -> None:
        super().__init__(find_unused_parameters=True)

    def block_backward_sync(self) -> Any:
        """Let the processes add up gradients after every batch, also of those that accumulate.

        DDP leaves alone what the last of these batches did not use, and with it what an earlier one left there.
        """
        return contextlib.nullcontext()


def _strategy(name: str, here: ranks.RankInfo) -> Strategy | str:
    if here.world == 1:
        return "auto"
    return Fsdp(here.world) if name == "fsdp" else _Ddp()


def resolve_precision(precision: str | int | None, accelerator: str) -> str | int | None:
    """Return `precision`, with `auto` replaced: bf16-mixed where the processor computes in bf16, fp32 elsewhere."""
    if precision != "auto":
        return precision
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
        # Without CUDA, `auto` may still be Apple's GPU.
        native = native and not (accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available())
    return "bf16-mixed" if native else "32-true"


def total_steps(trainer: pl.Trainer, batches_per_epoch: int) -> int:
    """Return the optimizer steps of the whole run.

    Lightning's own estimate would load the data once before a resumed run does, and lose the loader's position.
    """
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else math.inf
    steps = epochs * steps_per_epoch(trainer, batches_per_epoch)
    return int(min(steps, trainer.max_steps if trainer.max_steps > 0 else math.inf))


def steps_per_epoch(trainer: pl.Trainer, batches_per_epoch: int) -> int:
    """Return the optimizer steps of one pass over the batches, as many as `limit_train_batches` lets through."""
    return math.ceil(limited(trainer.limit_train_batches, batches_per_epoch) / trainer.accumulate_grad_batches)
