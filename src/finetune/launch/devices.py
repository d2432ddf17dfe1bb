"""What this machine has to train on, as far as that shows without importing torch, which takes seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What a driver puts there: NVIDIA (also in a container, on Jetson, under WSL), AMD.
_GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "nvhost-gpu", "nvgpu", "dxg", "kfd")


def has_gpu(folder: Path = Path("/dev")) -> bool | None:
    """Return whether a driver of a GPU is there; None where that cannot be seen from files."""
    if sys.platform != "linux":
        return None
    return any(next(folder.glob(pattern), None) for pattern in _GPU_FILES)


def check_devices(cfg: DictConfig) -> list[Problem]:
    """Look whether there is what the trainer is told to use."""
    wanted = cfg.trainer.accelerator
    nowhere = {"gpu": has_gpu() is False, "cuda": has_gpu() is False, "mps": sys.platform != "darwin"}
    if nowhere.get(wanted, False):
        what = f"this machine has no {'GPU of Apple' if wanted == 'mps' else 'GPU, or no driver for it'}."
        advice = "Set trainer.accelerator=auto to take what there is, or run it on a machine that has one."
        return [Problem("trainer.accelerator", what, advice)]
    return []


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
