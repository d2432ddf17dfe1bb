"""What a run cost: time, tokens, memory, energy."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Trainer

from finetune.encoding import memory
from finetune.training.energy import Energy
from finetune.training.module import EmbeddingModule


class RunCost:
    """Measures from when it is made; `training` are the seconds between `begin` and `end`, less those looked in."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._made = self._began = self._ended = time.monotonic()
        self._energy = Energy(device)

    def begin(self) -> None:
        """Say that the training begins."""
        self._began = time.monotonic()

    def end(self) -> None:
        """Say that the training has ended."""
        self._ended = time.monotonic()

    def facts(self, trainer: Trainer, module: EmbeddingModule) -> dict[str, Any]:
        """Return what this process has cost so far; of a run that went on, what it did before is not in it.

        Memory is that of this process in MB of 2^20 bytes, energy in watt-hours of all that runs on the processors and
        the GPU, None where the system does not tell.
        """
        training = max(self._ended - self._began - module.seconds_looked, 1e-9)
        gpu = self._device.type == "cuda"
        # Of several GPUs or machines this process sees one, and a part is no answer.
        alone = trainer.world_size == 1 or not (gpu or trainer.num_nodes > 1)
        energy = self._energy.watt_hours() if alone else None
        return {
            "seconds": round(time.monotonic() - self._made, 1),
            "training_seconds": round(training, 1),
            "optimizer_steps": trainer.global_step,
            "items": module.items_seen,
            "tokens": module.tokens_seen,
            "items_per_second": round(module.items_seen / training, 1),
            "tokens_per_second": round(module.tokens_seen / training, 1),
            "peak_memory_mb": round(memory.peak(torch.device("cpu")) / memory.MB),
            "gpu_memory_mb": round(memory.peak(self._device) / memory.MB) if gpu else None,
            "energy_wh": None if energy is None else round(energy, 3),
            "device": torch.cuda.get_device_name(self._device) if gpu else str(self._device),
            "processes": trainer.world_size,
            "precision": trainer.precision,
        }
