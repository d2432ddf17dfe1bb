"""torch and the devices that it can use; found by a process of its own, which may crash or hang without harm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from finetune.cores import visible_cores
from finetune.doctor.finding import Finding
from finetune.preflight.devices import has_gpu

TOPIC = "devices"
_SECONDS = 60  # a first import of torch from a slow disk
_PROBE = (sys.executable, "-m", "finetune.doctor.probe")


def device_findings() -> Iterator[Finding]:
    """Yield what torch can compute on."""
    cores = len(visible_cores())
    yield Finding(TOPIC, "CPU", "fine", "1 core" if cores == 1 else f"{cores} cores")
    facts, problem = _probe()
    if facts is None:
        advice = "Install torch again: pip install -c constraints.txt --force-reinstall torch."
        yield Finding(TOPIC, "torch", "wrong", problem, advice)
        return
    yield from findings_of(facts, bool(has_gpu()))


def findings_of(facts: dict[str, Any], driver: bool) -> Iterator[Finding]:
    """Yield what the facts of the probe mean on a machine with or without the driver of a GPU."""
    build = "CPU only"
    if facts["cuda"]:
        build = f"CUDA {facts['cuda']}"
    elif facts["hip"]:
        build = f"ROCm {facts['hip']}"
    yield Finding(TOPIC, "torch", "fine", f"{facts['torch']} ({build}), {facts['cpu']}, {facts['threads']} threads")
    if facts["error"]:
        advice = "Run nvidia-smi; the driver may need a restart, or be older than this build of torch needs."
        yield Finding(TOPIC, "GPU", "wrong", f"it cannot be used: {facts['error']}.", advice)
    elif facts["available"]:
        for number, gpu in enumerate(facts["gpus"]):
            yield _gpu(number, gpu)
    elif driver and build == "CPU only":
        advice = "Install the build of torch for your CUDA version, as pytorch.org describes."
        yield Finding(TOPIC, "GPU", "wrong", "there is a driver, and torch is built for the CPU only.", advice)
    elif driver:
        advice = "Run nvidia-smi: is the driver older than the CUDA version of torch? Is CUDA_VISIBLE_DEVICES empty?"
        yield Finding(TOPIC, "GPU", "wrong", "there is a driver, and torch finds no device.", advice)
    else:
        yield Finding(TOPIC, "GPU", "fine", "none; runs use the CPU")
    bf16 = "bf16 is fast" if facts["bf16"] else "no fast bf16: runs on the CPU use fp32"
    yield Finding(TOPIC, "precision on the CPU", "fine", bf16)


def _gpu(number: int, gpu: dict[str, Any]) -> Finding:
    from rich.filesize import decimal

    can = ["bf16" if gpu["bf16"] else "no bf16"]
    can.append("flash attention" if gpu["flash"] is None else f"no flash attention, texts are padded: {gpu['flash']}")
    text = f"{gpu['name']}, {decimal(gpu['free'])} of {decimal(gpu['total'])} free, {', '.join(can)}"
    if not gpu["works"]:
        return Finding(TOPIC, f"GPU {number}", "wrong", f"{text}: it computes wrong results.", "Test its hardware.")
    if gpu["free"] < gpu["total"] // 2:
        advice = "nvidia-smi shows which processes use it."
        return Finding(TOPIC, f"GPU {number}", "doubtful", f"{text}: other processes use its memory.", advice)
    return Finding(TOPIC, f"GPU {number}", "fine", text)


def _probe() -> tuple[dict[str, Any] | None, str]:
    """Return the facts, or None and what happened instead."""
    try:
        done = subprocess.run(_PROBE, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"it did not answer within {_SECONDS} s."
    try:
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return None, f"it cannot be imported: {lines[-1]}."
    return facts, ""
