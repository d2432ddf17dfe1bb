"""What all trackers have in common: no training waits for one, and none fails with it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from finetune.console import say
from finetune.errors import Interrupted, first_line
from finetune.runs.directory import RunDirectory, State

Row = tuple[dict[str, float], int]  # numbers by their names, and the step, counted from 1

_MOST_WAITING = 100_000  # rows; a service that hangs for days must not fill the memory


class Tracker(Logger):
    """Hands rows to a service of others from a thread of its own; when that fails, it says so and the run goes on.

    A subclass says what it is called and needs, and how to begin, write a row, and end. `finish_seconds` are waited
    for it at the end of the run. `directory` is given by the run.
    """

    title: ClassVar[str]
    needs: ClassVar[str]  # the package, which an extra of the same name brings; the check reads it

    def __init__(self, finish_seconds: float, directory: str | None) -> None:
        super().__init__()
        self.run = RunDirectory(Path(directory or "."))
        self._finish_seconds = finish_seconds
        self._rows: queue.Queue[Row | State] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._failed = False

    def begin(self, config: dict[str, Any], step: int) -> None:
        """Open the tracker's run, or the one that this run had before; the first row will be that of `step`."""
        raise NotImplementedError

    def write(self, rows: list[Row]) -> None:
        """Hand over the rows that came since the last time, at least one."""
        raise NotImplementedError

    def end(self, state: State) -> None:
        """Close the tracker's run, which is finished, failed or interrupted."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name of this logger."""
        return self.title

    @property
    def version(self) -> str:
        """The run's name."""
        return self.run.name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take one row, without waiting; `step` counts optimizer steps from 0, and those handed over count from 1."""
        if self._failed:
            return
        if self._thread is None:
            # A daemon, because what hangs in a network must not keep a process that is done.
            self._thread = threading.Thread(target=self._work, name=self.title, daemon=True)
            self._thread.start()
        try:
            self._rows.put_nowait((dict(metrics), (step or 0) + 1))
        except queue.Full:
            self._fail("it takes no more rows")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hand over nothing: the tracker gets the whole config when it begins."""

    def close(self, state: State) -> None:
        """End the tracker's run, and wait for it as long as was allowed."""
        if self._thread is None or self._failed:
            return
        with suppress(queue.Full):
            self._rows.put(state, timeout=self._finish_seconds)
        self._thread.join(self._finish_seconds)
        if self._thread.is_alive():
            self._fail(f"it has not answered for {self._finish_seconds:g} seconds")

    def remembered(self) -> str | None:
        """The id that the tracker gave to this run before, kept in the run directory."""
        return self.run.read_trackers().get(self.title)

    def remember(self, run_id: str) -> None:
        """Keep the id that the tracker gave to this run."""
        self.run.write_tracker(self.title, run_id)

    def _work(self) -> None:
        try:
            config = yaml.safe_load(self.run.config_path.read_text(encoding="utf-8"))
            rows, state = self._taken()
            self.begin(config, rows[0][1] if rows else 0)
            while state is None:
                self.write(rows)
                rows, state = self._taken()
            if rows:
                self.write(rows)
            self.end(state)
        except Exception as error:  # whatever it is: a tracker is not worth a training
            self._fail(first_line(error))

    def _taken(self) -> tuple[list[Row], State | None]:
        """Wait for a row, and take all others that are there; the state comes after the last one."""
        rows: list[Row] = []
        while not rows or not self._rows.empty():
            taken = self._rows.get()
            if isinstance(taken, str):
                return rows, taken
            rows.append(taken)
        return rows, None

    def _fail(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            say(f"{self.title} failed, and the run goes on without it: {why}", style="yellow")


@contextmanager
def ended(loggers: Iterable[Any]) -> Iterator[None]:
    """Tells the trackers among the loggers how the run ended: Lightning ends them before the last evaluation."""
    state: State = "failed"
    try:
        yield
        state = "finished"
    except (Interrupted, KeyboardInterrupt):
        state = "interrupted"
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, Tracker):
                logger.close(state)
