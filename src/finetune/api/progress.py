"""The progress of a run in another process, printed in this one: in a terminal, a notebook or a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from finetune.runs.metrics_file import last_value

if TYPE_CHECKING:
    from finetune.api.run_status import RunStatus
    from finetune.runs.directory import RunDirectory

_RECORD = re.compile(r"\[[^\]]*\]\[([\w.]+)\]\[(\w+)\] (.*)")  # as in conf/hydra/job_logging/run_log.yaml
_BAR = re.compile(r"\w[\w ]* [\d,]+/[\d,]+ \w+( .*)?")  # as console.Bar writes it
_TRAINING = re.compile(r"training ([\d,]+)/")
_SHOWN_LEVELS = ("WARNING", "ERROR", "CRITICAL")


class Progress:
    """Prints the new lines of a run's log, and where a line can be rewritten, the progress of what it is doing."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._offset = run.log_path.stat().st_size if run.log_path.is_file() else 0
        self._rest = b""
        self._shows = True  # whether lines without a time belong to a record that is shown
        self._line = ""  # the last one, which is rewritten
        self._is_interactive = sys.stdout.isatty() or "ipykernel" in type(sys.stdout).__module__

    def update(self, status: RunStatus) -> None:
        """Print what is new; at the end of a finished run also its results."""
        for text in self._new_lines():
            self._print(text)
        if not status.has_ended:
            self._show_step(status)
            return
        self._rewrite("")
        if status.state == "finished":
            self._print_results()

    def _new_lines(self) -> Iterator[str]:
        try:
            with self._run.log_path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            yield from self._shown(line.decode("utf-8", "replace"))

    def _shown(self, line: str) -> Iterator[str]:
        """Yield a line of the log without time and source, if it is to be shown."""
        record = _RECORD.fullmatch(line)
        if record is None:
            if self._shows:
                yield line
            return
        source, level, text = record.groups()
        # A traceback is in the log, and in the error that is raised.
        self._shows = (source == "finetune" or level in _SHOWN_LEVELS) and not text.startswith("Traceback")
        if self._shows:
            yield text if source == "finetune" else f"{source}: {text}"

    def _show_step(self, status: RunStatus) -> None:
        if not self._is_interactive:
            return
        if status.state in ("pending", "requeued") and status.reason:  # in the queue of a cluster
            self._rewrite(status.reason)
        if not status.step or status.state != "running":
            return
        bar = _TRAINING.match(self._line)
        if bar is not None and int(bar[1].replace(",", "")) >= status.step:
            return  # the line shows a later step
        text = f"training, step {status.step:,}"
        loss = last_value(self._run.metrics_path, "loss")
        if loss is not None:
            text += f" · loss {loss:.3f}"
        if status.eta_seconds:
            text += f" · {timedelta(seconds=round(status.eta_seconds))} left"
        self._rewrite(text)

    def _print(self, text: str) -> None:
        if self._is_interactive and _BAR.fullmatch(text):
            self._rewrite(text)
            return
        self._rewrite("")
        _write(f"{text}\n")

    def _rewrite(self, text: str) -> None:
        """Replace the last line; an empty text removes it."""
        if text != self._line:
            blank = " " * len(self._line)
            _write(f"\r{blank}\r{text}")
            self._line = text

    def _print_results(self) -> None:
        from rich.console import Console

        from finetune.errors import FinetuneError
        from finetune.report import terminal
        from finetune.report.write import read_report

        try:
            evaluations = read_report(self._run)["evaluations"]
        except FinetuneError:  # a report that could not be written does not fail a run
            return
        # Not as HTML of a notebook, which would be in another order than the lines above.
        console = Console(file=sys.stdout, highlight=False, soft_wrap=True, force_jupyter=False)
        for name, part in evaluations.items():
            console.print(terminal.metrics_table(name, part))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
