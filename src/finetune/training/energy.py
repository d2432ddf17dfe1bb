"""The energy that processors and GPU use, where the system counts it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")
_WATT_HOUR = 3600.0  # joules
_SECONDS = 60.0  # between two looks: a counter that begins again after some minutes at full power is not missed


class Energy:
    """Counts from when it is made: the processors' packages by RAPL, which needs a right to read, and the GPU by NVML.

    What others do on the same machine is counted too.
    https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
    """

    def __init__(self, device: torch.device, powercap: Path = _POWERCAP) -> None:
        self._packages = [Package(folder) for folder in _packages(powercap)]
        self._gpu = Gpu(device) if device.type == "cuda" else None
        self._started = self._gpu.joules() if self._gpu else None
        self._ended = threading.Event()
        if self._packages:
            threading.Thread(target=self._watch, name="energy", daemon=True).start()

    def watt_hours(self) -> float | None:
        """Return what was used so far, and stop counting; None where nothing is counted."""
        self._ended.set()
        parts = [package.joules() for package in self._packages]
        now = self._gpu.joules() if self._gpu else None
        if now is not None and self._started is not None:
            parts.append(now - self._started)
        return sum(parts) / _WATT_HOUR if parts else None

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            for package in self._packages:
                package.joules()


class Package:
    """One processor package's counter, in microjoules, which begins again at its end."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._end = _number(folder / "max_energy_range_uj") or 0
        self._last = _number(self._counter) or 0
        self._sum = 0
        self._lock = threading.Lock()

    def joules(self) -> float:
        """Return the energy since the first look."""
        with self._lock:
            now = _number(self._counter)
            if now is not None:
                self._sum += now - self._last + (self._end if now < self._last else 0)
                self._last = now
            return self._sum / 1e6


class Gpu:
    """A GPU's counter since its driver was loaded; NVML comes with the driver, so that no package is needed.

    https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    """

    def __init__(self, device: torch.device) -> None:
        self._handle: ctypes.c_void_p | None = None
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
            handle = ctypes.c_void_p()
            found = self._library.nvmlInit_v2() == 0
            if found and self._library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) == 0:
                self._handle = handle
        except (OSError, AttributeError, RuntimeError):
            return

    def joules(self) -> float | None:
        """Return what the counter says; None where there is none (before Volta, on a share of a GPU)."""
        millijoules = ctypes.c_ulonglong()
        if self._handle is None:
            return None
        if self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules)):
            return None
        return millijoules.value / 1000


def _packages(powercap: Path) -> Iterator[Path]:
    """Yield the readable counters of whole packages: cores and memory are parts of them, psys holds them."""
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
