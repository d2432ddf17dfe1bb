"""What every benchmark here does: each contestant in fresh processes, alternating, and a table of medians.

Absolute seconds mean little on a busy machine: read the ratios.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What one fresh process said (its last line of output, as JSON), and its peak memory in MB."""

    said: dict[str, Any]
    peak_mb: float


def run_fresh(script: Path, arguments: Sequence[str], **environment: str) -> Measured:
    """Run `script` in a new process and return what it measured; stops everything if it fails."""
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{script.name} {' '.join(arguments)} failed (status {status}):\n" + "\n".join(lines[-20:]))
    return Measured(json.loads(lines[-1]), usage.ru_maxrss / 1024)


def medians(rounds: Sequence[Measured]) -> dict[str, float]:
    """Return the median of every number that the rounds measured, and of their peak memory."""
    numbers = {
        key: median(one.said[key] for one in rounds) for key, value in rounds[0].said.items() if _is_number(value)
    }
    return {**numbers, "peak_mb": median(one.peak_mb for one in rounds)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    lines = [" | ".join(header), "|".join(["---", *["---:"] * (len(header) - 1)])]
    return "\n".join(f"| {line} |" for line in [*lines[:1], *lines[1:], *(" | ".join(map(str, row)) for row in rows)])


def heading() -> str:
    """Return the machine, the date and the command, to stand above a table."""
    versions = f"Python {platform.python_version()}"
    command = shlex.join(["python", *sys.argv])
    return f"{_processor()}, {os.cpu_count()} cores, {versions}, {date.today():%Y-%m-%d}\n\n    {command}\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
