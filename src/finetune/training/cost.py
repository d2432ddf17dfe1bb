"""The cost of a run: time, tokens, memory, energy."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Trainer

from finetune import devices
from finetune.encoding import memory
from finetune.training.energy import Energy
from finetune.training.module import EmbeddingModule


class RunCost:
    """Measures from its creation on; the training is timed between `start_training` and `end_training`."""

    def __init__(self, device: torch.device) -> None:
        self._device = devices.of(device)
        self._is_gpu = device.type == "cuda"
        self._created = self._training_started = self._training_ended = time.monotonic()
        self._energy = Energy(device)

    def start_training(self) -> None:
        """Start to time the training."""
        self._training_started = time.monotonic()

    def end_training(self) -> None:
        """Stop to time the training."""
        self._training_ended = time.monotonic()

    def facts(self, trainer: Trainer, module: EmbeddingModule) -> dict[str, Any]:
        """Return the cost of this process so far; for a resumed run, without that of earlier processes.

        The time of the training is without that of evaluations in it. Memory is in MB of 2^20 bytes. Energy is in
        watt-hours, of everything that runs on the processors and the GPU, None where it is not available.
        """
        training = self._training_ended - self._training_started - module.seconds_evaluated
        training = max(training, 1e-9)
        facts = {
            "seconds": round(time.monotonic() - self._created, 1),
            "training_seconds": round(training, 1),
            "optimizer_steps": trainer.global_step,
            "skipped_steps": module.skipped_steps or None,
            "items": module.items_seen,
            "tokens": module.tokens_seen,
            "items_per_second": round(module.items_seen / training, 1),
            "tokens_per_second": round(module.tokens_seen / training, 1),
            "peak_memory_mb": _peak_mb(devices.of(torch.device("cpu"))),
            "gpu_memory_mb": None,
            "energy_wh": self._watt_hours(trainer),
            "device": self._device.name(),
            "processes": trainer.world_size,
            "precision": trainer.precision,
        }
        if self._is_gpu:
            facts["gpu_memory_mb"] = _peak_mb(self._device)
        return facts

    def _watt_hours(self, trainer: Trainer) -> float | None:
        # With several GPUs or machines this process measures only one of them, which would be misleading.
        is_shared = trainer.world_size > 1 and (self._is_gpu or trainer.num_nodes > 1)
        if is_shared:
            return None
        energy = self._energy.watt_hours()
        return None if energy is None else round(energy, 3)


def _peak_mb(device: devices.Device) -> int:
    return round(device.peak() / memory.MB)
