"""Errors that are shown to the user as text. All other exceptions are bugs and keep their traceback."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")  # colors, as in messages of torch.onnx


@dataclass(frozen=True)
class Problem:
    """One problem: its location, a description, and advice.

    `where` is a config key (`trainer.max_epochs`) or a location in a file (`pairs.csv:17`). `part`: it is one of many,
    such as a bad row, which another problem counts.
    """

    where: str
    what: str
    advice: str = ""
    part: bool = field(default=False, repr=False)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if self.advice:
            text += f" {self.advice}"
        return text


class FinetuneError(Exception):
    """An error that the user can fix, shown as text without a traceback.

    `exit_code`: exit code of the command; 2 for a mistake in its arguments or config. `trace`: traceback of a bug in
    another process that this error reports.
    """

    exit_code = 2
    trace = ""

    def __init__(self, what: str, advice: str = "") -> None:
        separator = "\n" if "\n" in what else " "
        super().__init__(f"{what}{separator}{advice}".strip())
        self.what = what
        self.advice = advice


class CheckFailed(FinetuneError):
    """All problems of a config and its data, found before anything was started."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ModelError(FinetuneError):
    """A model that is missing, unreadable, or does not support what was requested."""


class RunError(FinetuneError):
    """A run that cannot continue: a full disk, a directory without write permission, a loss that is not finite."""

    exit_code = 1


class MemoryRanOut(RunError):
    """Memory ran out in an operation that cannot be repeated with less."""


class Refused(RunError):
    """A failed read or write (a full disk); the run can be resumed once it is fixed."""


class Interrupted(FinetuneError):
    """A run that was stopped by the user or the system; it can be resumed."""

    exit_code = 130


class RunFailed(RunError):
    """A run that was waited for and failed: `reason` and `cause` as in its status, and the last lines of its log."""

    def __init__(self, run: str, reason: str, cause: str | None, log_tail: str) -> None:
        text = f"the run {run} failed: {reason or 'it wrote no reason.'}"
        super().__init__(text, f"The end of its log:\n{log_tail}" if log_tail else "")
        self.run, self.reason, self.cause, self.log_tail = run, reason, cause, log_tail


class WaitTimeout(RunError, TimeoutError):
    """A run that was waited for has not ended in time; it continues."""


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an exception, at most 300 characters, for a message."""
    text = _TERMINAL_CODES.sub("", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else "no reason given"
    return f"{type(error).__name__}: {reason}"[:300]
