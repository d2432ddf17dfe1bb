"""The device that a benchmark runs on: its name, its versions, and how fast it multiplies matrices."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

_PACKAGES = [
    "torch",
    "transformers",
    "sentence-transformers",
    "pytorch-lightning",
    "flash-attn",
    "faiss-gpu",
    "faiss-cpu",
]
# Dense bf16 FLOP/s, without sparsity, from NVIDIA's data sheets of these GPUs; of H100 and H200 the SXM modules, which
# are faster than those named PCIe and NVL.
PEAK_BF16 = {"H200": 989.4e12, "H100": 989.4e12, "A100": 312e12}
_SLOWER = {"PCIe", "NVL"}


def synchronize(device: str) -> None:
    """Wait for all work that is queued on the device."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def seconds(do: Callable[[], Any], device: str, repeats: int = 10, warmup: int = 3) -> float:
    """Return the median time of a call, waiting for the device after each."""
    taken = []
    for _ in range(warmup + repeats):
        synchronize(device)
        start = time.perf_counter()
        do()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[warmup:])


def matmul_flops(device: str, size: int | None = None) -> float:
    """Return the FLOP/s of a square bf16 matrix product of random numbers; 2 * size ** 3 operations each."""
    import torch

    size = size or (8192 if device == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


def peak_flops(name: str) -> float | None:
    """Return the bf16 FLOP/s that the manufacturer states for a GPU; None if it is not in the table."""
    words = set(name.replace("-", " ").split())
    model = next((model for model in PEAK_BF16 if model in words), None)
    if model is None or (model != "A100" and words & _SLOWER):
        return None
    return PEAK_BF16[model]


def name_of(device: str) -> str:
    """Return the name of the GPU, or of the processor."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@functools.cache
def environment(device: str) -> dict[str, Any]:
    """Return what a measurement depends on: device, driver, versions, date, and which optional libraries there are."""
    import torch

    facts: dict[str, Any] = {
        "device": name_of(device),
        "date": f"{date.today():%Y-%m-%d}",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "cuda": torch.version.cuda,
        "flash_attn": importlib.util.find_spec("flash_attn") is not None,
        "faiss": importlib.util.find_spec("faiss") is not None,
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["memory_mb"] = properties.total_memory // 2**20
        facts["compute_capability"] = f"{properties.major}.{properties.minor}"
        facts["driver"] = _nvidia_smi("driver_version")
    return facts


def heading(device: str, command: list[str] | None = None) -> str:
    """Return device, versions, date and command as Markdown, to go above a table."""
    facts = environment(device)
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    parts = [facts["device"], f"{facts['cores']} cores", f"Python {facts['python']}", versions]
    if device == "cuda":
        parts.insert(1, f"{facts['memory_mb']:,} MB, driver {facts['driver']}, CUDA {facts['cuda']}")
    words = " ".join(["python", *(command or sys.argv)])
    return f"{', '.join(parts)}, {facts['date']}:\n\n    {words}\n"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _nvidia_smi(query: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = answer.stdout.split("\n")
    return lines[0].strip() or "unknown"
