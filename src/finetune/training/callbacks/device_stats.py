"""The load of the machine during the training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, Trainer

from finetune import devices
from finetune.config.types import PositiveInt
from finetune.encoding import memory
from finetune.training.callbacks.order import CallbackOrder, every


class DeviceStats(Callback):
    """Logs load, memory and disk of the machine every `every_n_steps` optimizer steps, as `device/...`.

    `load` is the number of processes of the machine that run or wait for a processor, a mean over a minute; memory and
    disk are in MB, those on a GPU of this process. `directory` is provided by the run.
    """

    order: ClassVar[int] = CallbackOrder.MEASURES

    def __init__(self, every_n_steps: PositiveInt = 50, directory: str | None = None) -> None:
        self.every_n_steps = every_n_steps
        self._disk = Path(directory or ".")

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Log if it is due."""
        if trainer.is_global_zero and every(trainer, module, batch_idx, self.every_n_steps):
            for logger in trainer.loggers:
                logger.log_metrics(self._stats(module.device), step=trainer.global_step - 1)

    def _stats(self, torch_device: torch.device) -> dict[str, float]:
        device, host = devices.of(torch_device), devices.of(torch.device("cpu"))
        stats = {
            "load": os.getloadavg()[0],
            "memory_available_mb": host.available() / memory.MB,
            "disk_free_mb": shutil.disk_usage(self._disk).free / memory.MB,
            "memory_peak_mb": device.peak() / memory.MB,
        }
        allocated, reserved = device.allocated(), device.reserved()
        if allocated is not None and reserved is not None:
            stats["gpu_memory_mb"] = allocated / memory.MB
            stats["gpu_reserved_mb"] = reserved / memory.MB
        return {f"device/{name}": value for name, value in stats.items()}
