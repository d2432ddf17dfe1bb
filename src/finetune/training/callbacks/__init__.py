"""What watches a training: progress, checkpoints, evaluations, signals."""

from finetune.training.callbacks.average import Average
from finetune.training.callbacks.checkpoint import Checkpoint
from finetune.training.callbacks.device_stats import DeviceStats
from finetune.training.callbacks.early_stopping import EarlyStopping
from finetune.training.callbacks.evaluate import Evaluate, MonitoredMetric, check_metrics, scores_of_untouched
from finetune.training.callbacks.order import finish, ordered
from finetune.training.callbacks.progress import Progress
from finetune.training.callbacks.samples import SampleEmbeddings
from finetune.training.callbacks.status import StatusWriter
from finetune.training.callbacks.stop import StopOnSignal
from finetune.training.callbacks.time_limit import TimeLimit, time_limit
from finetune.training.callbacks.wise_ft import WiseFT

__all__ = [
    "Average",
    "Checkpoint",
    "DeviceStats",
    "EarlyStopping",
    "Evaluate",
    "MonitoredMetric",
    "Progress",
    "SampleEmbeddings",
    "StatusWriter",
    "StopOnSignal",
    "TimeLimit",
    "WiseFT",
    "check_metrics",
    "finish",
    "ordered",
    "scores_of_untouched",
    "time_limit",
]
