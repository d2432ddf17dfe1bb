"""Checkpoints to resume from: whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, Trainer

from finetune.config.types import PositiveInt
from finetune.runs.atomic import explain
from finetune.runs.directory import RunDirectory


class Checkpoint(Callback):
    """Saves `last.ckpt` every `every_n_steps` optimizer steps, at the end of every epoch, and at the end of the run.

    `directory` is given by the run.
    """

    def __init__(self, every_n_steps: PositiveInt = 500, directory: str | None = None) -> None:
        self.every_n_steps = every_n_steps
        self.path = RunDirectory(Path(directory or ".")).last_checkpoint
        self._saved_at = 0

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Save if it is time.

        All saves are made here, those at an epoch's end too: from the hook that Lightning has for those, a resumed run
        loses batches (after a stop within an epoch, or with `max_steps`).
        """
        step = trainer.global_step
        wanted = step % self.every_n_steps == 0 or trainer.is_last_batch or step >= module.total_steps
        # With accumulation several batches share a step; a second save would be the first again.
        if wanted and step != self._saved_at:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved_at = step


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and puts it in its place when it is whole and on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save `checkpoint` to `path`.

        Raises:
            RunError: the disk is full or cannot be written; the previous checkpoint is still there.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                _Recorder(file).save(checkpoint)
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise explain(error, f"save the checkpoint {target}") from error


class _Recorder:
    """Hands bytes to a file and remembers its error, which torch.save replaces by one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def save(self, checkpoint: dict[str, Any]) -> None:
        try:
            torch.save(checkpoint, cast(IO[bytes], self))
        except RuntimeError:
            if self._error is None:
                raise
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = error
            raise

    def flush(self) -> None:
        self._file.flush()
