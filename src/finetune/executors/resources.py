"""The CPU cores and GPUs that each of the runs at the same time may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.cores import visible_cores
from finetune.errors import Problem
from finetune.preflight.devices import visible_gpus
from finetune.ranks import RANK_VARIABLES


@dataclass(frozen=True)
class Slot:
    """What one run at a time may use: CPU cores and GPUs; `None` for all of them."""

    cores: tuple[int, ...] | None = None
    gpus: tuple[str, ...] | None = None

    def environment(self, processes: int) -> dict[str, str]:
        """Return the environment for a run that trains with so many processes."""
        environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
        if self.cores is not None:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(self.cores) // processes)))
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return environment

    def pin(self, process: int) -> None:
        """Pin a process that has just started, and all that it starts, to these cores."""
        if self.cores is not None and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # it may have ended already
                os.sched_setaffinity(process, self.cores)


def slots(parallel: int, processes: int = 1, *, uses_gpu: bool = False) -> list[Slot]:
    """Return what each of `parallel` runs at the same time may use, with a GPU for each of its `processes`."""
    if parallel == 1:
        return [Slot()]
    gpus: list[str] = []
    if uses_gpu:
        gpus = visible_gpus()
    found = []
    for place in range(parallel):
        cores = _cores_of(visible_cores(), place, parallel)
        if gpus:
            found.append(Slot(cores, _gpus_of(gpus, place, processes)))
        else:
            found.append(Slot(cores))
    return found


def check_slots(parallel: int, gpus_per_run: Sequence[object], *, share_gpus: bool) -> list[Problem]:
    """Return a problem if there are too few GPUs for `parallel` runs at the same time.

    `gpus_per_run` are the values of `trainer.devices` of the runs that train on a GPU.
    """
    if parallel == 1 or not gpus_per_run:
        return []
    numbers = [devices for devices in gpus_per_run if isinstance(devices, int) and devices > 0]
    if len(numbers) < len(gpus_per_run):
        what = f"with sweep.parallel={parallel} the sweep decides which GPUs a trial gets."
        return [Problem("trainer.devices", what, "Set how many a trial needs: trainer.devices=1.")]
    available, each = len(visible_gpus()), max(numbers)
    needed = each
    if not share_gpus:
        needed = parallel * each
    if needed <= available:
        return []
    what = f"{parallel} trials at once with trainer.devices={each} need {needed} GPUs, and there are {available}."
    fits = max(1, available // each)
    return [Problem("sweep.parallel", what, f"Set sweep.parallel={fits}, or sweep.share_gpus=true if memory allows.")]


def slot_notes(parallel: int) -> list[str]:
    """Return a sentence if there are fewer CPU cores than runs at the same time."""
    cores = len(visible_cores())
    if parallel <= cores:
        return []
    return [f"sweep.parallel={parallel} on {cores} CPU cores: some trials share one."]


def _cores_of(cores: Sequence[int], place: int, count: int) -> tuple[int, ...]:
    """Return the share of the cores of the run at `place` of `count`."""
    if count >= len(cores):
        return (cores[place % len(cores)],)
    first = len(cores) * place // count
    end = len(cores) * (place + 1) // count
    return tuple(cores[first:end])


def _gpus_of(gpus: Sequence[str], place: int, each: int) -> tuple[str, ...]:
    # It wraps around only if runs share GPUs.
    return tuple(gpus[(place * each + i) % len(gpus)] for i in range(each))
