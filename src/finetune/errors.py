"""The few errors a user can meet. Everything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it is, what it is, and what to do about it.

    `where` is a config key (`trainer.max_epochs`) or a place in a file (`pairs.csv:17`). `part` says that it is one of
    many of which another problem tells how many there are, such as a bad row.
    """

    where: str
    what: str
    advice: str = ""
    part: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.advice}" if self.advice else "")


class FinetuneError(Exception):
    """A mistake or a mishap that a person can mend: shown as text, never as a traceback.

    `exit_code` is what the command line ends with: 2 for a mistake in what was asked. `trace` is the traceback of a bug
    that this tells of, where it happened in another process.
    """

    exit_code = 2
    trace = ""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what} {advice}".strip())
        self.what = what
        self.advice = advice


class CheckFailed(FinetuneError):
    """Everything that is wrong with a config or its data, found before anything was started."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ModelError(FinetuneError):
    """A model that cannot be had, read, or used as asked."""


class RunError(FinetuneError):
    """A run that could not go on: a full disk, a directory that cannot be written, a loss that is not a number."""

    exit_code = 1


class Refused(RunError):
    """The system refused to write or read (a full disk); once that is mended the run can go on where it was."""


class Interrupted(FinetuneError):
    """A run that a person or the system stopped; it can be resumed."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return what a library's error is called and the first thing it says, for a sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300]
