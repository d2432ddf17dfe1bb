"""The executor that a config chooses: processes of this machine, or jobs of a SLURM cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.console import say
from finetune.errors import CheckFailed, Problem
from finetune.executors.base import Executor, RunBatch, RunRequest
from finetune.executors.local import LocalExecutor
from finetune.executors.resources import check_slots, slot_notes, slots
from finetune.executors.slurm.executor import SlurmExecutor
from finetune.preflight.devices import uses_gpu
from finetune.preflight.slurm import ResourceRequest, SlurmSettings, resource_request, slurm_settings

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_resources(configs: Sequence[DictConfig], parallel: int, *, share_gpus: bool) -> list[Problem]:
    """Return why `parallel` of these runs cannot run at the same time; of a cluster SLURM itself checks that."""
    if slurm_settings(configs[0]) is not None:
        return []
    return check_slots(parallel, [cfg.trainer.devices for cfg in configs if uses_gpu(cfg)], share_gpus=share_gpus)


def executor_from_config(batch: RunBatch) -> Executor:
    """Return the executor that `hydra/launcher` chooses.

    Raises:
        CheckFailed: a search is only to be submitted, without waiting for its runs.
    """
    settings = slurm_settings(batch.configs[0])
    if settings is None:
        return _local_executor(batch)
    return _slurm_executor(batch, settings, dry_run=bool(batch.configs[0].dry_run))


def processes_of(cfg: DictConfig) -> int:
    """Return with how many processes a run trains on each machine, as far as its config says."""
    devices = cfg.trainer.devices
    return devices if isinstance(devices, int) and devices > 0 else 1


def _local_executor(batch: RunBatch) -> LocalExecutor:
    for note in slot_notes(batch.parallel):
        say(note)
    processes = max(processes_of(cfg) for cfg in batch.configs)
    on_gpu = any(uses_gpu(cfg) for cfg in batch.configs)
    return LocalExecutor(slots(batch.parallel, processes, uses_gpu=on_gpu), batch.arguments)


def _slurm_executor(batch: RunBatch, settings: SlurmSettings, *, dry_run: bool) -> SlurmExecutor:
    if batch.is_search and not settings.wait and not dry_run:
        what = "a search chooses each trial by the results of others, so its shell has to wait for them."
        raise CheckFailed([Problem("hydra.launcher.wait", what, "Use finetune train -m hydra/launcher=slurm ...")])

    def resources_of(request: RunRequest) -> ResourceRequest:
        return resource_request(batch.config_of(request), settings)

    return SlurmExecutor(
        settings,
        batch.arguments,
        resources_of,
        batch.claim,
        parallel=batch.parallel,
        at_most=batch.parallel if batch.is_search else None,
        is_detached=dry_run or not settings.wait,
        dry_run=dry_run,
    )
