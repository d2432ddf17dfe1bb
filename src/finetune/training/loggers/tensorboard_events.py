"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from typing import Any, ClassVar

from finetune.config.types import Positive
from finetune.runs.directory import State
from finetune.training.loggers.tracker import Tracker

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
        """Open a new file; what older ones have from `step` on is hidden, since the run takes these steps again."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.run.path / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=step, flush_secs=_SECONDS_BETWEEN_WRITES)

    def write(self, row: dict[str, float], step: int) -> None:
        """Add the numbers of one row."""
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def end(self, state: State) -> None:
        """Write what is left."""
        self._writer.close()
