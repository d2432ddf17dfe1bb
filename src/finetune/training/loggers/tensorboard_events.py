"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from typing import Any, ClassVar

from finetune.config.types import Positive
from finetune.runs.directory import State
from finetune.runs.metrics import numbers
from finetune.training.loggers.tracker import Row, Tracker

_SECONDS_BETWEEN_WRITES = 10


class TensorBoard(Tracker):
    """Writes every logged row as event files in the run's folder `tensorboard/`; a resumed run goes on in there.

    `finish_seconds` are waited for it at the end of the run. `directory` is given by the run.
    """

    title: ClassVar[str] = "TensorBoard"
    needs: ClassVar[str] = "tensorboard"

    def __init__(self, finish_seconds: Positive = 30.0, directory: str | None = None) -> None:
        super().__init__(finish_seconds, directory)
        self._writer: Any = None

    def begin(self, config: dict[str, Any], step: int) -> None:
        """Open a new file; of a resumed run it begins with all rows until then, and hides what older files have."""
        from torch.utils.tensorboard import SummaryWriter

        # A kill takes what was not yet on disk here, and of what was, some steps are taken again.
        told = [(numbers(row), row.get("step") or 0) for row in self.run.read_metrics()]
        earlier = [(row, at) for row, at in told if at < step]
        folder, first = self.run.path / "tensorboard", 0 if earlier else step
        self._writer = SummaryWriter(str(folder), purge_step=first, flush_secs=_SECONDS_BETWEEN_WRITES)
        self.write(earlier)

    def write(self, rows: list[Row]) -> None:
        """Add the numbers of some rows."""
        for row, step in rows:
            for name, value in row.items():
                self._writer.add_scalar(name, value, step)

    def end(self, state: State) -> None:
        """Write what is left."""
        self._writer.close()
