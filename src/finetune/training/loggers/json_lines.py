"""Metrics into a file of the run directory; needs no other package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from finetune.runs.directory import RunDirectory


class JsonLines(Logger):
    """Writes every logged row as one line of `metrics.jsonl` in the run directory.

    `directory` is provided by the run.
    """

    def __init__(self, directory: str | None = None) -> None:
        super().__init__()
        self._run = RunDirectory(Path(directory or "."))

    @property
    def name(self) -> str:
        """The name of this logger."""
        return "jsonl"

    @property
    def version(self) -> str:
        """The run's name."""
        return self._run.path.name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row; `step` counts optimizer steps from 1."""
        number = None if step is None else step + 1
        self._run.append_metrics({"step": number, **metrics})

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the run directory has the whole config."""
