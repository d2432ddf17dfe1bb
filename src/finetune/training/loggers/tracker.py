"""The base class of experiment trackers: a training neither waits for a tracker nor fails with it."""

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

Row = tuple[dict[str, float], int]  # metrics by their names, and the step, counted from 1

_MAX_QUEUED_ROWS = 100_000  # a service that hangs for days must not fill the memory


class Tracker(Logger):
    """Sends rows to a service from a thread of its own; if that fails, it prints the reason and the run continues.

    A subclass implements `begin`, `write` and `end`. `finish_seconds` is how long the end of the run waits for it.
    `directory` is provided by the run.
    """

    title: ClassVar[str]
    needs: ClassVar[str]  # the package, which an extra of the same name installs; the config check reads it

    def __init__(self, finish_seconds: float, directory: str | None) -> None:
        super().__init__()
        self.run = RunDirectory(Path(directory or "."))
        self._finish_seconds = finish_seconds
        self._rows: queue.Queue[Row | State] = queue.Queue(_MAX_QUEUED_ROWS)
        self._thread: threading.Thread | None = None
        self._failed = False

    def begin(self, config: dict[str, Any], step: int) -> None:
        """Open a run of the tracker, for a resumed run the same one again; the first row will be that of `step`."""
        raise NotImplementedError

    def write(self, rows: list[Row]) -> None:
        """Send the rows since the last call, at least one."""
        raise NotImplementedError

    def end(self, state: State) -> None:
        """Close the run of the tracker; `state` is finished, failed or interrupted."""
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
        """Queue one row without waiting; `step` counts optimizer steps from 0, in the queue they count from 1."""
        if self._failed:
            return
        if self._thread is None:
            # A daemon: a hanging connection must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name=self.title, daemon=True)
            self._thread.start()
        try:
            self._rows.put_nowait((dict(metrics), (step or 0) + 1))
        except queue.Full:
            self._fail("it takes no more rows")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `begin` gets the whole config."""

    def close(self, state: State) -> None:
        """Close the run of the tracker, and wait for that at most `finish_seconds`."""
        if self._thread is None or self._failed:
            return
        with suppress(queue.Full):
            self._rows.put(state, timeout=self._finish_seconds)
        self._thread.join(self._finish_seconds)
        if self._thread.is_alive():
            self._fail(f"it has not answered for {self._finish_seconds:g} seconds")

    def stored_id(self) -> str | None:
        """Return the tracker's id of this run from the run directory; None if the run is new to it."""
        return self.run.read_trackers().get(self.title)

    def store_id(self, run_id: str) -> None:
        """Store the tracker's id of this run in the run directory."""
        self.run.write_tracker(self.title, run_id)

    def _work(self) -> None:
        try:
            config = yaml.safe_load(self.run.config_path.read_text(encoding="utf-8"))
            rows, state = self._queued_rows()
            self.begin(config, rows[0][1] if rows else 0)
            while state is None:
                self.write(rows)
                rows, state = self._queued_rows()
            if rows:
                self.write(rows)
            self.end(state)
        except Exception as error:  # any error: a tracker must not end a training
            self._fail(first_line(error))

    def _queued_rows(self) -> tuple[list[Row], State | None]:
        """Wait for a row, and return all queued rows; with the state of the run after its last row."""
        rows: list[Row] = []
        while not rows or not self._rows.empty():
            entry = self._rows.get()
            if isinstance(entry, str):
                return rows, entry
            rows.append(entry)
        return rows, None

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            say(f"{self.title} failed, and the run continues without it: {reason}", style="yellow")


@contextmanager
def close_trackers(loggers: Iterable[Any]) -> Iterator[None]:
    """Close the trackers with the state of the run at its end; Lightning would do so before the last evaluation."""
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
