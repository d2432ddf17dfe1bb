"""The time of each stage of a training step."""

from __future__ import annotations

import time

import torch


class StepTimer:
    """The seconds of each stage of the last step, in order.

    On a GPU the ends of stages are events in its queue: recording one waits for nothing, only `seconds` waits.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[str, float | torch.cuda.Event]] = []
        self._device = torch.device("cpu")

    def start_step(self, device: torch.device) -> None:
        """Start a step at the end of the one before; the first step starts now."""
        self._device = device
        start = self._ends[-1][1] if self._ends else self._now()
        self._ends = [("", start)]

    def end_stage(self, stage: str) -> None:
        """End a stage, which started at the end of the one before."""
        self._ends.append((stage, self._now()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        by_stage: dict[str, float] = {}
        for (_, start), (stage, end) in zip(self._ends, self._ends[1:], strict=False):
            by_stage[stage] = by_stage.get(stage, 0.0) + _between(start, end)
        return by_stage

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    """Return the seconds between two times, or between two events of a GPU."""
    if isinstance(start, torch.cuda.Event):
        return float(start.elapsed_time(end)) / 1000  # type: ignore[arg-type]
    assert isinstance(end, float)
    return end - start
