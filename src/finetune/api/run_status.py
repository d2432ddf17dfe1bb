"""The status of a run, here or on a server."""

from __future__ import annotations

from dataclasses import dataclass

ENDED = ("finished", "failed", "interrupted", "dead", "damaged", "deleted")


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    `state` is one of those of `finetune runs`: pending, created, validating, running, finished, failed, interrupted;
    requeued for a job of a cluster that waits again; dead if its process was killed, damaged if its directory cannot be
    read, deleted if it has none any more. `reason` is a sentence, empty if there is nothing to explain, and `cause` the
    category of what ended the run, such as "out of memory". `step` is the last optimizer step that was reported;
    `eta_seconds` the estimated seconds that are left, None if unknown.
    """

    state: str
    reason: str = ""
    step: int | None = None
    cause: str | None = None
    eta_seconds: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing works on the run any more."""
        return self.state in ENDED

    def __str__(self) -> str:
        text = self.state
        if self.step:
            text += f" at step {self.step:,}"
        return f"{text}: {self.reason}" if self.reason else text
