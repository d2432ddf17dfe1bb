"""Loggers of a run's metrics: into its directory, and to experiment trackers."""

from finetune.training.loggers.json_lines import JsonLines
from finetune.training.loggers.mlflow_store import MLflow
from finetune.training.loggers.tensorboard_events import TensorBoard
from finetune.training.loggers.tracker import Tracker, close_trackers
from finetune.training.loggers.weights_and_biases import WeightsAndBiases

__all__ = ["JsonLines", "MLflow", "TensorBoard", "Tracker", "WeightsAndBiases", "close_trackers"]
