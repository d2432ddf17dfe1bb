"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from typing import Any, ClassVar

from finetune.config.types import Positive
from finetune.runs.directory import State
from finetune.runs.metrics import numbers
from finetune.training.loggers.tracker import Row, Tracker

_SECONDS_BETWEEN_WRITES = 10


class TensorBoard(Tracker):
    """Writes every logged row to event files in the run's folder `tensorboard/`, also after a resume.

    `finish_seconds` is how long the end of the run waits for it. `directory` is provided by the run.
    """

    title: ClassVar[str] = "TensorBoard"
    needs: ClassVar[str] = "tensorboard"

    def __init__(self, finish_seconds: Positive = 30.0, directory: str | None = None) -> None:
        super().__init__(finish_seconds, directory)
        self._writer: Any = None

    def begin(self, config: dict[str, Any], step: int) -> None:
        """Open a new file; after a resume it starts with all earlier rows, and replaces those of older files."""
        from torch.utils.tensorboard import SummaryWriter

        # A killed run may not have written all rows to its file, and may have written steps that are repeated now.
        logged = [(numbers(row), row.get("step") or 0) for row in self.run.read_metrics()]
        earlier = [(row, row_step) for row, row_step in logged if row_step < step]
        purge_step = 0 if earlier else step
        folder = str(self.run.path / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=purge_step, flush_secs=_SECONDS_BETWEEN_WRITES)
        self.write(earlier)

    def write(self, rows: list[Row]) -> None:
        """Add rows."""
        for row, step in rows:
            for name, value in row.items():
                self._writer.add_scalar(name, value, step)

    def end(self, state: State) -> None:
        """Write the remaining rows."""
        self._writer.close()
