"""Writes a checkpoint completely, with a manifest that proves it, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from finetune.runs.atomic import explain, sync_folder
from finetune.runs.checkpoints import Checkpoints


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, renames it once it is on disk, and writes the manifest last."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save `checkpoint` to `path`.

        Raises:
            RunError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                recorder = _Recorder(file)
                recorder.save(checkpoint)
                os.fsync(file.fileno())
            target.with_suffix(".json").unlink(missing_ok=True)  # the manifest of an earlier save of this step
            partial.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise explain(error, f"save the checkpoint {target}") from error
        saved, step = Checkpoints(target.parent.parent), checkpoint["global_step"]
        if target == saved.path(step):  # a user's own callback may save elsewhere, without a manifest
            saved.seal(target, recorder.sha256, recorder.size, step, checkpoint["metrics"])


class _Recorder:
    """Writes to a file, hashes the bytes, and keeps the file's error, which torch.save replaces by its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

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
            written = self._file.write(data)
        except OSError as error:
            self._error = error
            raise
        self._digest.update(data)
        self.size += written
        return written

    def flush(self) -> None:
        self._file.flush()
