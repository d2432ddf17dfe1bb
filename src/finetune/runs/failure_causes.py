"""What ended a run, in a few fixed words that can be filtered by; the sentence beside them says it in full."""

from __future__ import annotations

import errno
import re
from typing import Literal

from finetune.errors import FinetuneError, Interrupted, RunError

Cause = Literal[
    "out of memory",
    "data",
    "diverged",
    "disk full",
    "disk",
    "killed",
    "timeout",
    "node lost",
    "stopped",
    "cancelled",
    "preempted",
    "time limit",
    "max_time",
    "mistake",
    "error",
]

# What torch and gloo say, in none but these words, when another process of the run does not answer or is gone.
_TIMEOUT = re.compile(r"timed? ?out", re.IGNORECASE)
_NODE_LOST = re.compile(r"connection (?:closed by|reset by|refused|aborted)|socket (?:closed|error)", re.IGNORECASE)
_ECHO = re.compile(r"closed by peer|connection reset|broken pipe|remote worker|process ?group|nccl|gloo", re.IGNORECASE)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = {errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM}
_DISTRIBUTED = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")


class Diverged(RunError):
    """The loss of a run is no number any more."""


class RemoteRankError(RunError):
    """What ended a run in another of its processes; `cause` and `exit_code` are those it has there."""

    def __init__(self, what: str, advice: str, cause: Cause, exit_code: int = 1, trace: str = "") -> None:
        super().__init__(what, advice)
        self.cause, self.exit_code, self.trace = cause, exit_code, trace


def cause_of(error: BaseException) -> Cause:
    """Return the kind of an error that ended a run; the errors behind it count too."""
    if isinstance(error, RemoteRankError):
        return error.cause
    is_mistake = isinstance(error, FinetuneError) and error.exit_code == FinetuneError.exit_code
    said: list[tuple[bool, Cause]] = [
        (isinstance(error, Diverged), "diverged"),
        (is_stop(error), "stopped"),
        (is_out_of_memory(error), "out of memory"),
        (_refusal(error) in _FULL, "disk full"),
        (_refusal(error) in _DISK, "disk"),
        (_processes_say(_NODE_LOST, error), "node lost"),
        (_processes_say(_TIMEOUT, error) or isinstance(error, TimeoutError), "timeout"),
        (_comes_from(error, "finetune.data"), "data"),
        (is_mistake, "mistake"),
    ]
    return next((cause for applies, cause in said if applies), "error")


def is_stop(error: BaseException) -> bool:
    """Whether an error says that somebody stopped the process; Lightning makes SystemExit of Ctrl-C."""
    return isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)


def is_secondary_failure(error: BaseException) -> bool:
    """Whether an error may only say that another process of the run does not answer any more."""
    is_theirs = isinstance(error, RuntimeError | ConnectionError) and not isinstance(error, RunError)
    return is_theirs and (type(error).__name__ in _DISTRIBUTED or _ECHO.search(str(error)) is not None)


def out_of_memory(error: BaseException) -> RunError | None:
    """Return what is to be said about an error that says that memory ran out."""
    if not is_out_of_memory(error):
        return None
    advice = "Use a smaller engine.activation_mb, engine.token_budget or data.max_length, or close other programs."
    return RunError("Memory ran out.", advice)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return True
    # torch.OutOfMemoryError by its name, so that torch is not imported here.
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def _refusal(error: BaseException) -> int | None:
    """Return the number of what the system refused, if it was a disk that did, also where our sentence is about it."""
    behind = error.__cause__ if isinstance(error, FinetuneError) else error
    return behind.errno if isinstance(behind, OSError) else None


def _processes_say(what: re.Pattern[str], error: BaseException) -> bool:
    text = str(error)
    is_theirs = type(error).__name__ in _DISTRIBUTED or "gloo" in text.lower()
    return is_theirs and what.search(text) is not None


def _comes_from(error: BaseException, room: str) -> bool:
    """Whether an error was raised in a room of this package or below it."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        last = name if name.startswith("finetune.") else last
        trace = trace.tb_next
    return last.startswith(f"{room}.")
