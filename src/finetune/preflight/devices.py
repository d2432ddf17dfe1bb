"""What this machine has to train on, as far as that shows without importing torch, which takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import ranks
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What a driver puts there: NVIDIA (also in a container, on Jetson, under WSL), AMD.
_GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "nvhost-gpu", "nvgpu", "dxg", "kfd")


def has_gpu(folder: Path = Path("/dev")) -> bool | None:
    """Return whether a driver of a GPU is there; None where that cannot be seen from files."""
    if sys.platform != "linux":
        return None
    return any(next(folder.glob(pattern), None) for pattern in _GPU_FILES)


def processes_here(cfg: DictConfig) -> int:
    """Return how many processes are to train on this machine, as `trainer.devices` says."""
    devices = cfg.trainer.devices
    if isinstance(devices, int) and devices > 0:
        return devices
    if not isinstance(devices, int | str):
        return len(devices)
    if cfg.trainer.accelerator not in ("auto", "gpu", "cuda") or has_gpu() is False:
        return 1
    import torch  # nothing else knows how many it can use

    return max(1, torch.cuda.device_count())


def check_start(cfg: DictConfig) -> None:
    """Look whether the processes that a run wants can be there.

    Raises:
        CheckFailed: it wants other machines, and nobody starts processes there.
    """
    machines = cfg.trainer.num_nodes
    if isinstance(machines, int) and machines > 1 and ranks.current_rank().world == 1:
        what = f"a run on {machines} machines is started on each of them, and this is one process."
        advice = f"Start it with torchrun --nnodes={machines} --nproc-per-node=... train.py ..., or with srun."
        raise CheckFailed([Problem("trainer.num_nodes", what, advice)])


def check_devices(cfg: DictConfig) -> list[Problem]:
    """Look whether there is what the trainer is told to use, and whether it is what somebody started."""
    return [*_check_there(cfg), *_check_started(cfg)]


def _check_started(cfg: DictConfig) -> Iterator[Problem]:
    here, devices, machines = ranks.current_rank(), cfg.trainer.devices, cfg.trainer.num_nodes
    if not here.starter:
        return
    auto = "set it to auto, as trainer=ddp does."
    wanted = devices if isinstance(devices, int | str) else len(devices)
    if wanted not in ("auto", -1, here.local_world):
        what = f"{here.starter} started {here.local_world} on this machine, and this says {wanted}."
        yield Problem("trainer.devices", what, f"Set trainer.devices={here.local_world}, or {auto} {here.if_alone}")
    if machines not in ("auto", here.machines):
        what = f"{here.starter} started processes on {here.machines} machines, and this says {machines}."
        yield Problem("trainer.num_nodes", what, f"Set trainer.num_nodes={here.machines}, or {auto} {here.if_alone}")


def _check_there(cfg: DictConfig) -> list[Problem]:
    wanted = cfg.trainer.accelerator
    nowhere = {"gpu": has_gpu() is False, "cuda": has_gpu() is False, "mps": sys.platform != "darwin"}
    if nowhere.get(wanted, False):
        what = f"this machine has no {'GPU of Apple' if wanted == 'mps' else 'GPU, or no driver for it'}."
        advice = "Set trainer.accelerator=auto to take what there is, or run it on a machine that has one."
        return [Problem("trainer.accelerator", what, advice)]
    there, asked = _gpus_seen(), cfg.trainer.devices
    if wanted in ("gpu", "cuda") and there is not None and isinstance(asked, int) and asked > there:
        what = f"this machine has {there} GPU{'' if there == 1 else 's'} to use, and this asks for {asked}."
        return [Problem("trainer.devices", what, f"Set trainer.devices={max(1, there)}, or auto for all there are.")]
    return []


def _gpus_seen(folder: Path = Path("/dev")) -> int | None:
    """Return how many GPUs a process may use, as far as that shows; NVIDIA's driver has a file for each."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    files = len(list(folder.glob("nvidia[0-9]*")))
    return min(files, len([name for name in named.split(",") if name])) if files and named else files or None


def device_notes(cfg: DictConfig) -> list[str]:
    """Return what is to be said about devices that are as asked, and may disappoint."""
    wanted, devices = cfg.trainer.accelerator, cfg.trainer.devices
    on_cpu = wanted == "cpu" or (wanted == "auto" and has_gpu() is False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    notes = []
    if on_cpu and isinstance(devices, int) and devices > cores:
        one = f"{cores} core{'s' if cores > 1 else ''}"
        notes.append(f"trainer.devices={devices} on {one}: the processes take turns; at most {cores} make it faster.")
    if cfg.check and wanted not in ("auto", "cpu"):
        notes.append(f"Whether torch can use trainer.accelerator={wanted} here was not looked at; a run looks first.")
    return notes
