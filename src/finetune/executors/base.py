"""What a scheduler needs from an executor: it starts runs, reports which of them have ended, and cancels them.

One interface for processes on this machine and for jobs on a cluster, with the shape of submitit's Executor and Job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune.config.command_line import Arguments, key_of, run_overrides

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.errors import Interrupted
    from finetune.runs.directory import RunDirectory

# `resume=` as it is decided when a run is submitted; afterwards its directory exists.
_DECIDED = ("resume=auto", "resume=never")


@dataclass(frozen=True)
class RunRequest:
    """A run to start: where its directory is or will be, all its overrides, and its processes on each machine."""

    path: Path
    overrides: Sequence[str]
    processes: int = 1

    def overrides_to_resume(self) -> list[str]:
        """Return the overrides for a process of the run if its directory exists: the process resumes it."""
        kept = [text for text in run_overrides(self.overrides) if key_of(text) not in ("resume", "hydra.run.dir")]
        typed = [text for text in self.overrides if key_of(text) == "resume" and text not in _DECIDED]
        # Typed again even if a file sets it: the directory exists, and a job that is requeued resumes in it.
        resume = typed[-1:] or ["resume=auto"]
        return [*kept, *resume]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: `state` and `reason` as in its status, or as concluded from what its process left."""

    path: Path
    state: str
    reason: str


class Executor(Protocol):
    """Starts runs as processes of their own, somewhere.

    `is_detached`: runs are only submitted, without waiting for their outcome. `poll_seconds` is the time to sleep
    between two calls of `poll`.
    """

    @property
    def is_detached(self) -> bool:
        """Whether the runs are only submitted, and `poll` is not called."""

    @property
    def poll_seconds(self) -> float:
        """Seconds to sleep between two calls of `poll`."""

    def has_room(self) -> bool:
        """Return whether another run can be submitted now."""

    def submit(self, request: RunRequest) -> None:
        """Start a run, or put it into the batch that the next `flush` starts."""

    def flush(self) -> None:
        """Start the submitted runs that have not been started yet.

        Raises:
            FinetuneError: they cannot be started, and there is nothing to wait for.
        """

    def poll(self) -> list[RunOutcome]:
        """Return the runs that have ended since the last call, without waiting."""

    def running(self) -> list[Path]:
        """Return the directories of the runs that were started, have not ended, and have not been cancelled."""

    def cancel(self, path: Path, reason: str | None = None) -> None:
        """Ask a run to save and stop; with a `reason` that becomes the reason in its status.

        Raises:
            FinetuneError: it cannot be cancelled now; it stays in `running`.
        """

    def stop(self, number: int) -> list[RunOutcome]:
        """Stop because this process got a signal, and return the runs that ended by it; a cluster's jobs continue."""

    def interrupted(self, finished: int, command: str) -> Interrupted:
        """Return the error to show after `stop`, with `finished` runs done and the `command` that continues."""


@dataclass(frozen=True)
class RunBatch:
    """All that an executor may need to know of the runs of a sweep before they are submitted.

    `configs` are those of all runs, or of some of them if later runs depend on the outcome of earlier ones
    (`is_search`). At most `parallel` run at the same time. `config_of` returns the config of a request, `claim` creates
    its run directory and returns it, and whether it existed before.
    """

    arguments: Arguments
    configs: Sequence[DictConfig]
    is_search: bool
    parallel: int
    config_of: Callable[[RunRequest], DictConfig]
    claim: Callable[[RunRequest], tuple[RunDirectory, bool]]


ExecutorFactory = Callable[[RunBatch], Executor]
