"""Where the time of a step goes."""

from __future__ import annotations

import time

import torch


class StepTimer:
    """Seconds of each stage of the last step, in the order they are marked.

    On a GPU the marks are events in its queue, so that marking waits for nothing; only reading does.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self._device = torch.device("cpu")

    def begin(self, device: torch.device) -> None:
        """Begin a step where the one before ended; before the first, where it is called."""
        self._device = device
        self._marks = [("", self._marks[-1][1] if self._marks else self._now())]

    def mark(self, stage: str) -> None:
        """Say that `stage` ends here, and began where the one before ended."""
        self._marks.append((stage, self._now()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found: dict[str, float] = {}
        for (_, start), (stage, end) in zip(self._marks, self._marks[1:], strict=False):
            between = end - start if isinstance(end, float) else start.elapsed_time(end) / 1000  # type: ignore[operator, union-attr]
            found[stage] = found.get(stage, 0.0) + between
        return found

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
