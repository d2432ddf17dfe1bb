"""The devices of this machine, as far as they are visible without importing torch, which takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import ranks
from finetune.cores import visible_cores
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Device files of a driver: NVIDIA (also in a container, on Jetson, under WSL), AMD.
_GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "nvhost-gpu", "nvgpu", "dxg", "kfd")
_DEV = Path("/dev")


def has_gpu(folder: Path = _DEV) -> bool | None:
    """Return whether there is a driver of a GPU; None if files do not show it."""
    if sys.platform != "linux":
        return None
    return any(list(folder.glob(pattern)) for pattern in _GPU_FILES)


def visible_gpus(folder: Path = _DEV) -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]
    # Drivers without a file for each GPU (WSL, AMD): at least one is certain.
    return [str(i) for i in range(_count_gpu_files(folder) or 1)]


def uses_gpu(cfg: DictConfig) -> bool:
    """Return whether a run trains on a GPU, as far as its config and the device files show."""
    wanted = cfg.trainer.accelerator
    return wanted in ("gpu", "cuda") or (wanted == "auto" and bool(has_gpu()))


def local_processes(cfg: DictConfig) -> int:
    """Return how many processes train on this machine according to `trainer.devices`."""
    devices = cfg.trainer.devices
    if isinstance(devices, int) and devices > 0:
        return devices
    if not isinstance(devices, int | str):
        return len(devices)
    if cfg.trainer.accelerator not in ("auto", "gpu", "cuda") or has_gpu() is False:
        return 1
    import torch  # only torch knows how many it can use

    return max(1, torch.cuda.device_count())


def check_start(cfg: DictConfig) -> None:
    """Check that the processes of a run can exist.

    Raises:
        CheckFailed: the run needs other machines, and no program has started processes there.
    """
    machines = cfg.trainer.num_nodes
    if isinstance(machines, int) and machines > 1 and ranks.current_rank().world == 1:
        what = f"a run on {machines} machines is started on each of them, and this is one process."
        advice = f"Start it with torchrun --nnodes={machines} --nproc-per-node=... train.py ..., or with srun."
        raise CheckFailed([Problem("trainer.num_nodes", what, advice)])


def check_devices(cfg: DictConfig) -> list[Problem]:
    """Check that the devices of the config exist, and that it agrees with the processes that were started."""
    return [*_check_exist(cfg), *_check_started(cfg)]


def device_notes(cfg: DictConfig) -> list[str]:
    """Return sentences about devices that are valid and may still be unexpected."""
    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and has_gpu() is False)
    cores = len(visible_cores())
    notes = []
    if on_cpu and isinstance(devices, int) and devices > cores:
        available = "1 core" if cores == 1 else f"{cores} cores"
        notes.append(
            f"trainer.devices={devices} on {available}: the processes take turns; at most {cores} make it faster."
        )
    if cfg.check and accelerator not in ("auto", "cpu"):
        notes.append(f"Whether torch can use trainer.accelerator={accelerator} here was not checked; a run checks it.")
    return notes


def _check_started(cfg: DictConfig) -> Iterator[Problem]:
    info, devices, machines = ranks.current_rank(), cfg.trainer.devices, cfg.trainer.num_nodes
    if not info.starter:
        return
    auto = "set it to auto, as trainer=ddp does."
    wanted = devices if isinstance(devices, int | str) else len(devices)
    if wanted not in ("auto", -1, info.local_world):
        what = f"{info.starter} started {info.local_world} on this machine, and this says {wanted}."
        advice = f"Set trainer.devices={info.local_world}, or {auto} {info.advice_if_alone}"
        yield Problem("trainer.devices", what, advice)
    if machines not in ("auto", info.machines):
        what = f"{info.starter} started processes on {info.machines} machines, and this says {machines}."
        advice = f"Set trainer.num_nodes={info.machines}, or {auto} {info.advice_if_alone}"
        yield Problem("trainer.num_nodes", what, advice)


def _check_exist(cfg: DictConfig) -> list[Problem]:
    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    advice = "Set trainer.accelerator=auto to take what there is, or run it on a machine that has one."
    if accelerator in ("gpu", "cuda") and has_gpu() is False:
        return [Problem("trainer.accelerator", "this machine has no GPU, or no driver for it.", advice)]
    if accelerator == "mps" and sys.platform != "darwin":
        return [Problem("trainer.accelerator", "this machine has no Apple GPU.", advice)]
    available = _count_usable_gpus()
    if accelerator in ("gpu", "cuda") and available is not None and isinstance(devices, int) and devices > available:
        gpus = "1 GPU" if available == 1 else f"{available} GPUs"
        what = f"this machine has {gpus} to use, and this asks for {devices}."
        return [
            Problem("trainer.devices", what, f"Set trainer.devices={max(1, available)}, or auto for all there are.")
        ]
    return []


def _count_usable_gpus(folder: Path = _DEV) -> int | None:
    """Return how many GPUs a process may use; None without a file for each GPU, as NVIDIA's driver has."""
    files = _count_gpu_files(folder)
    if files == 0:
        return None
    # An empty variable hides all GPUs, which a run reports itself.
    return min(files, len(visible_gpus(folder))) or files


def _count_gpu_files(folder: Path) -> int:
    return len(list(folder.glob("nvidia[0-9]*")))
