"""Devices of its own for each of the points that run at the same time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import Problem
from finetune.preflight.devices import has_gpu
from finetune.ranks import OF_A_RUN
from finetune.sweep.settings import SweepSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Slot:
    """What one point at a time may use: CPU cores and GPUs; `None` for all that there are."""

    cores: tuple[int, ...] | None = None
    gpus: tuple[str, ...] | None = None

    def environment(self, processes: int) -> dict[str, str]:
        """Return the environment for a point that trains with so many processes."""
        environment = {name: value for name, value in os.environ.items() if name not in OF_A_RUN}
        if self.cores is not None:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(self.cores) // processes)))
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return environment

    def keep(self, process: int) -> None:
        """Keep a process that has just started, and all that it starts, on these cores."""
        if self.cores is not None and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # it may have ended already
                os.sched_setaffinity(process, self.cores)


def slots(settings: SweepSettings, configs: Sequence[DictConfig]) -> list[Slot]:
    """Return what each of the points that run at the same time may use."""
    if settings.parallel == 1:
        return [Slot()]
    wanted = max(processes_of(cfg) for cfg in configs)
    gpus = visible_gpus() if any(map(_on_gpu, configs)) else []
    return [
        Slot(_share(cores(), i, settings.parallel), _gpus_of(gpus, i, wanted) if gpus else None)
        for i in range(settings.parallel)
    ]


def check_slots(settings: SweepSettings, configs: Sequence[DictConfig]) -> list[Problem]:
    """Look whether there are devices for so many points at once."""
    on_gpu = [cfg for cfg in configs if _on_gpu(cfg)]
    if settings.parallel == 1 or not on_gpu:
        return []
    if any(not isinstance(cfg.trainer.devices, int) or cfg.trainer.devices < 1 for cfg in on_gpu):
        what = f"with sweep.parallel={settings.parallel} the sweep says which GPUs a point gets."
        return [Problem("trainer.devices", what, "Say how many a point needs: trainer.devices=1.")]
    there, each = len(visible_gpus()), max(cfg.trainer.devices for cfg in on_gpu)
    needed = each if settings.share_gpus else settings.parallel * each
    if needed <= there:
        return []
    what = f"{settings.parallel} points at once with trainer.devices={each} need {needed} GPUs, and there are {there}."
    fits = max(1, there // each)
    return [Problem("sweep.parallel", what, f"Set sweep.parallel={fits}, or sweep.share_gpus=true if memory allows.")]


def slot_notes(settings: SweepSettings) -> list[str]:
    """Return what is to be said about devices that may disappoint."""
    if settings.parallel <= len(cores()):
        return []
    return [f"sweep.parallel={settings.parallel} on {len(cores())} CPU cores: some points share one."]


def processes_of(cfg: DictConfig) -> int:
    """Return with how many processes a point trains, as far as its config says."""
    devices = cfg.trainer.devices
    return devices if isinstance(devices, int) and devices > 0 else 1


def cores() -> tuple[int, ...]:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def visible_gpus(folder: Path = Path("/dev")) -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    files = list(folder.glob("nvidia[0-9]*"))
    # A driver that shows no file for each GPU (WSL, AMD): one is certain.
    return [str(i) for i in range(len(files) or 1)]


def _on_gpu(cfg: DictConfig) -> bool:
    wanted = cfg.trainer.accelerator
    return wanted in ("gpu", "cuda") or (wanted == "auto" and bool(has_gpu()))


def _share(all_cores: Sequence[int], place: int, count: int) -> tuple[int, ...]:
    if count >= len(all_cores):
        return (all_cores[place % len(all_cores)],)
    first, end = (len(all_cores) * i // count for i in (place, place + 1))
    return tuple(all_cores[first:end])


def _gpus_of(gpus: Sequence[str], place: int, each: int) -> tuple[str, ...]:
    # Counted round and round, which is only reached where they may be shared.
    return tuple(gpus[(place * each + i) % len(gpus)] for i in range(each))
