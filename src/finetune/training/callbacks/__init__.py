"""Callbacks of a training: progress, evaluations, averages, checkpoints, limits, signals."""

from finetune.training.callbacks.average import Average
from finetune.training.callbacks.checkpoint import Checkpoint, judge_untouched
from finetune.training.callbacks.device_stats import DeviceStats
from finetune.training.callbacks.early_stopping import EarlyStopping
from finetune.training.callbacks.evaluate import Evaluate, MonitoredMetric
from finetune.training.callbacks.interpolate import Interpolate
from finetune.training.callbacks.mine_negatives import MineNegatives
from finetune.training.callbacks.order import finish, ordered
from finetune.training.callbacks.progress import Progress
from finetune.training.callbacks.samples import SampleEmbeddings
from finetune.training.callbacks.status import StatusWriter, seconds_after_training
from finetune.training.callbacks.stop import StopOnSignal
from finetune.training.callbacks.time_limit import TimeLimit, early_end, is_out_of_time
from finetune.training.callbacks.wise_ft import WiseFT

__all__ = [
    "Average",
    "Checkpoint",
    "DeviceStats",
    "EarlyStopping",
    "Evaluate",
    "Interpolate",
    "MineNegatives",
    "MonitoredMetric",
    "Progress",
    "SampleEmbeddings",
    "StatusWriter",
    "StopOnSignal",
    "TimeLimit",
    "WiseFT",
    "early_end",
    "finish",
    "is_out_of_time",
    "judge_untouched",
    "ordered",
    "seconds_after_training",
]
