"""What watches a training: progress, checkpoints, signals."""

from finetune.training.callbacks.checkpoint import Checkpoint
from finetune.training.callbacks.progress import Progress
from finetune.training.callbacks.stop import StopOnSignal

__all__ = ["Checkpoint", "Progress", "StopOnSignal"]
