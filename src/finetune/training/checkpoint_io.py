"""How a checkpoint gets to the disk: whole, with a manifest that says so, or not at all."""

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
    """Writes a checkpoint beside the others, puts it in its place when it is on disk, and its manifest last."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save `checkpoint` to `path`.

        Raises:
            RunError: the disk is full or cannot be written; the checkpoints before are still there.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                recorder = _Recorder(file)
                recorder.save(checkpoint)
                os.fsync(file.fileno())
            target.with_suffix(".json").unlink(missing_ok=True)  # of a save of this step that is replaced
            partial.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise explain(error, f"save the checkpoint {target}") from error
        saved = Checkpoints(target.parent.parent)
        if target == saved.path(checkpoint["global_step"]):  # else a callback of somebody's own saves where it likes
            saved.seal(target, recorder.sha256, recorder.size, checkpoint["global_step"], checkpoint["metrics"])


class _Recorder:
    """Hands bytes to a file, sums them up, and remembers its error, which torch.save replaces by one of its own."""

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
