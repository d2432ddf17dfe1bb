"""Terminal output: plain lines, progress bars, problems.

All output goes through the streams of `streams.py`, which never raise.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from finetune import streams
from finetune.errors import CheckFailed, FinetuneError, Problem

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)

_SECONDS_BETWEEN_LINES = 15.0
_log = logging.getLogger("finetune")  # has no handler until the run directory exists


def say(text: str, style: str = "") -> None:
    """Print one plain line, and write it to the run's log; markup is not interpreted, as `text` may contain data."""
    console.print(Text(text, style=style))
    log(text)


def be_quiet() -> None:
    """Print nothing from now on: only the first process of a run prints."""
    console.quiet = errors.quiet = True


@contextmanager
def silenced() -> Iterator[None]:
    """Print nothing to standard output inside the `with`; errors are printed."""
    before = console.quiet
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = before


def alert(text: str) -> None:
    """Print a line to standard error, even if this process is quiet: the user may have to act on it."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def log(text: str) -> None:
    """Write one line to the run's log only; it is dropped if there is no run directory yet."""
    if not errors.quiet:
        _log.info("%s", text)


def exit_on_closed_pipe() -> None:
    """From now on a closed pipe (`| head`) ends the process, as for other programs that only print."""
    if hasattr(signal, "SIGPIPE") and streams.is_program():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def print_error(error: FinetuneError) -> None:
    """Print an error, and write it to the run's log: all problems of a check, or one sentence and the advice."""
    for text in message_of(error):
        errors.print(text)
        log(text.plain)


def message_of(error: FinetuneError) -> Iterator[Text]:
    """Yield the lines of an error: all problems of a check, or one sentence and the advice."""
    if isinstance(error, CheckFailed):
        count = sum(not problem.part for problem in error.problems)
        problems = "problems" if count > 1 else "problem"
        yield Text(f"{count} {problems}; nothing was started.\n", style="bold red")
        yield from map(_block, error.problems)
        return
    if error.trace:
        yield Text(error.trace)
    yield Text(error.what, style="bold red")
    if error.advice:
        yield Text(f"  {error.advice}")


def _block(problem: Problem) -> Text:
    text = Text(problem.where, style="bold")
    # Parts, of which there may be many, take one line each.
    separator = "  " if problem.part else "\n    "
    text.append(f"{separator}{problem.what}", style="not bold")
    if problem.advice:
        text.append(f"\n    {problem.advice}", style="not bold")
    return text


def _time_left() -> ProgressColumn:
    from rich.progress import Task, TimeRemainingColumn

    class TimeLeft(TimeRemainingColumn):
        """Shows the `left` seconds that a bar was given, else Rich's own estimate."""

        def render(self, task: Task) -> Text:
            """Return the time left as Rich writes it."""
            left = task.fields.get("left")
            if left is None:
                return super().render(task)
            return Text(str(timedelta(seconds=round(left))), style="progress.remaining")

    return TimeLeft()


class Bar:
    """A progress bar in a terminal, a line every 15 seconds in a log file.

    `unit` names what is counted. Use as a context manager and call `update`.
    """

    def __init__(self, description: str, total: int, unit: str) -> None:
        from rich import progress  # here, because most commands show no bar

        self.description, self.total, self.unit = description, total, unit
        self._started = self._last_line = time.monotonic()
        self._first = 0
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn(f"{unit} · {{task.fields[text]}}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("· left"),
            _time_left(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(description, total=total, text="", left=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start_at(self, done: int) -> None:
        """Start at `done` instead of 0, for a resumed run, so that the remaining time is estimated correctly."""
        self._first = done
        self._progress.update(self._task, completed=done)

    def update(self, done: int, text: str = "", left: float | None = None) -> None:
        """Show that `done` of `total` are done, with `text` next to it.

        `left`: the remaining seconds, if more follows than the bar counts; else they are estimated from the pace.
        """
        self._progress.update(self._task, completed=done, text=text, left=left)
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or done == self.total:
            self._last_line = now
            seconds = self.seconds_left(done) if left is None else left
            parts = [f"{self.description} {done}/{self.total} {self.unit}"]
            if text:
                parts.append(text)
            if done < self.total or seconds >= 1:
                parts.append(f"{seconds:.0f} s left")
            line = " · ".join(parts)
            if console.is_terminal:
                log(line)
            else:
                say(line)

    def seconds_left(self, done: int) -> float:
        """Estimate the remaining seconds from the pace so far."""
        pace = (time.monotonic() - self._started) / max(1, done - self._first)
        return pace * (self.total - done)


def format_size(size: float) -> str:
    """Return a number of bytes as text, as `90.9 MB`."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} TB"
