"""The time of each stage of a training step."""

from __future__ import annotations

from typing import Any

import torch

from finetune import devices


class StepTimer:
    """The seconds of each stage of the last step, in order.

    On a GPU the ends of stages are events in its queue: recording one waits for nothing, only `seconds` waits.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[str, Any]] = []  # stages, and times of the device
        self._device = devices.of(torch.device("cpu"))

    def start_step(self, device: torch.device) -> None:
        """Start a step at the end of the one before; the first step starts now."""
        self._device = devices.of(device)
        start = self._ends[-1][1] if self._ends else self._device.now()
        self._ends = [("", start)]

    def end_stage(self, stage: str) -> None:
        """End a stage, which started at the end of the one before."""
        self._ends.append((stage, self._device.now()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far; waits for the device."""
        self._device.synchronize()
        by_stage: dict[str, float] = {}
        for (_, start), (stage, end) in zip(self._ends, self._ends[1:], strict=False):
            by_stage[stage] = by_stage.get(stage, 0.0) + self._device.seconds_between(start, end)
        return by_stage
