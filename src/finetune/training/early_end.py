"""Why a training ended before its last step."""

from __future__ import annotations

from pytorch_lightning import Trainer

from finetune.training.callbacks import time_limit
from finetune.training.module import EmbeddingModule


def early_end(trainer: Trainer, module: EmbeddingModule) -> str | None:
    """Return the sentence that says at which step the training ended and why; `None` if it took all of its steps."""
    if trainer.global_step >= module.total_steps or not trainer.should_stop:
        return None
    causes = (getattr(callback, "ended_by", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    cause = next((cause for cause in causes if cause), "a callback that stopped it")
    return f"Training ended at step {trainer.global_step} of {module.total_steps} because of {cause}."


def is_out_of_time(trainer: Trainer, module: EmbeddingModule) -> bool:
    """Whether `trainer.max_time` ended the training before its last step."""
    limit = time_limit(trainer)
    return limit is not None and limit.is_reached and trainer.global_step < module.total_steps
