"""The energy that processors and GPU use, where the system has counters for it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from finetune import devices

_POWERCAP = Path("/sys/class/powercap")
_WATT_HOUR = 3600.0  # joules
_SECONDS_BETWEEN_READS = 60.0  # a counter overflows after some minutes at full power; no overflow must be missed


class Energy:
    """Counts from its creation on: the processor packages by RAPL, which needs read permission, and the GPU by NVML.

    Other programs on the same machine are included.
    https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
    """

    def __init__(self, device: torch.device, powercap: Path = _POWERCAP) -> None:
        self._packages = [Package(folder) for folder in _packages(powercap)]
        gpu = devices.of(device)
        self._gpu = Gpu(gpu) if isinstance(gpu, devices.Cuda) else None
        self._gpu_at_start = self._gpu_joules()
        self._ended = threading.Event()
        if self._packages:
            threading.Thread(target=self._watch, name="energy", daemon=True).start()

    def watt_hours(self) -> float | None:
        """Return the energy used so far, and stop counting; None without any counter."""
        self._ended.set()
        joules = [package.joules() for package in self._packages]
        gpu_now = self._gpu_joules()
        if gpu_now is not None and self._gpu_at_start is not None:
            joules.append(gpu_now - self._gpu_at_start)
        return sum(joules) / _WATT_HOUR if joules else None

    def _gpu_joules(self) -> float | None:
        return self._gpu.joules() if self._gpu is not None else None

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_READS):
            for package in self._packages:
                package.joules()


class Package:
    """The counter of one processor package, in microjoules, which overflows to 0."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = _number(folder / "max_energy_range_uj") or 0
        self._last = _number(self._counter) or 0
        self._sum = 0
        self._lock = threading.Lock()

    def joules(self) -> float:
        """Return the energy since this object was created."""
        with self._lock:
            now = _number(self._counter)
            if now is not None:
                self._sum += now - self._last
                if now < self._last:
                    self._sum += self._range
                self._last = now
            return self._sum / 1e6


class Gpu:
    """The counter of a GPU since its driver was loaded; NVML is part of the driver, so that no package is needed.

    https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    """

    def __init__(self, device: devices.Cuda) -> None:
        self._handle: ctypes.c_void_p | None = None
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
            uuid = device.uuid().encode()
            handle = ctypes.c_void_p()
            found = self._library.nvmlInit_v2() == 0
            if found and self._library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) == 0:
                self._handle = handle
        except (OSError, AttributeError, RuntimeError):
            return

    def joules(self) -> float | None:
        """Return the value of the counter; None if there is none (older than Volta, or a part of a GPU)."""
        millijoules = ctypes.c_ulonglong()
        if self._handle is None:
            return None
        if self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules)):
            return None
        return millijoules.value / 1000


def _packages(powercap: Path) -> Iterator[Path]:
    """Yield the readable counters of whole packages: cores and memory are parts of them, psys contains them."""
    for folder in sorted(powercap.glob("*-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
        except OSError:
            continue
        if name.startswith("package") and _number(folder / "energy_uj") is not None:
            yield folder


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
