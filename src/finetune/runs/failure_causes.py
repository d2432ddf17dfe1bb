"""The cause of a run's end as one of a few fixed categories, to filter by; the `reason` next to it is a sentence."""

from __future__ import annotations

import errno
import re
import traceback
from typing import Literal

from finetune.errors import FinetuneError, Interrupted, MemoryRanOut, RunError

Cause = Literal[
    "out of memory",
    "data",
    "diverged",
    "disk full",
    "disk",
    "killed",
    "timeout",
    "gpu",
    "network",
    "node lost",
    "stopped",
    "cancelled",
    "preempted",
    "time limit",
    "max_time",
    "mistake",
    "error",
]

# That another process of the run has ended, in errors of other libraries.
_CONNECTION_LOST = re.compile(r"closed by peer|connection reset|broken pipe", re.IGNORECASE)
# Of the CPU's allocators on Linux and Windows, of C++, of CUDA and its libraries, of MPS.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory: you tried to allocate|std::bad_alloc|"
    r"CUDA (?:driver )?error: out of memory|cudaErrorMemoryAllocation|CUDA out of memory|"
    r"CU[A-Z]+_STATUS_ALLOC_FAILED|MPS backend out of memory"
)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = {errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM}


class Diverged(RunError):
    """The loss of a run is no longer finite."""


class RemoteRankError(RunError):
    """The error that ended another process of the run; `cause` and `exit_code` are those of that process.

    `rank` is the process, if it is known.
    """

    def __init__(
        self, what: str, advice: str, cause: Cause, exit_code: int = 1, trace: str = "", rank: int | None = None
    ) -> None:
        super().__init__(what, advice)
        self.cause, self.exit_code, self.trace, self.rank = cause, exit_code, trace, rank


class RankGone(RemoteRankError):
    """Another process of the run ended without a report of why."""


def cause_of(error: BaseException) -> Cause:
    """Return the category of an error that ended a run, also by the error that caused it."""
    if isinstance(error, RemoteRankError):
        return error.cause
    from finetune.runs.known_errors import find_known_error

    system_error, known = _errno_of(error), find_known_error(error)
    is_mistake = isinstance(error, FinetuneError) and error.exit_code == FinetuneError.exit_code
    if known is not None and not is_out_of_memory(error):
        return known.cause
    rules: list[tuple[bool, Cause]] = [
        (isinstance(error, Diverged), "diverged"),
        (is_stop(error), "stopped"),
        (is_out_of_memory(error), "out of memory"),
        (system_error in _DISK_FULL, "disk full"),
        (system_error in _DISK, "disk"),
        (isinstance(error, TimeoutError), "timeout"),
        (_comes_from(error, "finetune.data"), "data"),
        (is_mistake, "mistake"),
    ]
    for applies, cause in rules:
        if applies:
            return cause
    return "error"


def is_stop(error: BaseException) -> bool:
    """Whether an error means that a user or a signal stopped the process; Lightning turns Ctrl-C into SystemExit."""
    return isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)


def is_secondary_failure(error: BaseException) -> bool:
    """Whether an error may only be the consequence of the end of another process of the run."""
    if isinstance(error, RunError) or not isinstance(error, RuntimeError | ConnectionError):
        return False
    from finetune.runs.known_errors import find_known_error, is_distributed

    known = find_known_error(error)
    if known is not None:
        return known.is_secondary
    return is_distributed(error) or _CONNECTION_LOST.search(str(error)) is not None


def out_of_memory_error(error: BaseException) -> RunError | None:
    """Return the error to report if memory ran out, else None."""
    if not is_out_of_memory(error):
        return None
    advice = "Use a smaller engine.activation_mb, engine.token_budget or data.max_length, or close other programs."
    return RunError("Memory ran out.", advice)


def explained_error(error: BaseException) -> RunError | None:
    """Return the error to report if it is known what `error` means: memory ran out, a GPU or a connection failed.

    Its `trace` is the traceback, if the error is a bug.
    """
    from finetune.runs.known_errors import detail, find_known_error

    shortage = out_of_memory_error(error)
    known = find_known_error(error)
    if shortage is not None or known is None:
        return shortage
    explained = RunError(f"{known.what}: {detail(error)}", known.advice)
    if known.is_bug:
        explained.trace = "".join(traceback.format_exception(error))
    return explained


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or the CPU."""
    if isinstance(error, MemoryError | MemoryRanOut) or _errno_of(error) == errno.ENOMEM:
        return True
    # torch.OutOfMemoryError by its name, because this package does not import torch.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def _errno_of(error: BaseException) -> int | None:
    """Return the errno of an OSError, or of the OSError that caused a FinetuneError; None for all others."""
    origin = error.__cause__ if isinstance(error, FinetuneError) else error
    return origin.errno if isinstance(origin, OSError) else None


def _comes_from(error: BaseException, package: str) -> bool:
    """Whether an error was raised in a package of finetune, or in a library that it called."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("finetune."):
            last = module
        trace = trace.tb_next
    return last.startswith(f"{package}.")
