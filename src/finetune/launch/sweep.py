"""Sweeps: every point a fresh process with a run directory of its own; this process never trains."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from rich.table import Column, Table
from rich.text import Text

from finetune.config.check import check
from finetune.console import console, say
from finetune.errors import Interrupted
from finetune.launch.arguments import Arguments, as_override

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Point:
    """One point that ran: what was varied, where it is, and its headline metric, `None` without one."""

    overrides: list[str]
    run: Path
    exit_code: int
    metric: str
    value: float | None


def sweep(arguments: Arguments) -> int:
    """Run every point one after the other and rank them; returns 1 if any failed, else 0.

    Raises:
        CheckFailed: the first point has a mistake, which then most of them have.
        Interrupted: somebody stopped the sweep, and with it the point that was running.
    """
    from finetune.launch.entry import start_hydra

    check(_first_point(arguments.overrides), arguments.config_dir, arguments.config_name)
    varied = {override.key_or_group for override in _parsed(arguments.overrides) if override.is_sweep_override()}
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    points: list[Point] = []

    def run_point(cfg: DictConfig) -> None:
        run = Path(cfg.output_root) / cfg.experiment / f"{stamp}_{len(points):03d}"
        points.append(_run_point(list(HydraConfig.get().overrides.task), varied, run, arguments))

    start_hydra(arguments, arguments.overrides, ["--multirun"], run_point)
    _say_ranked(points)
    return int(any(point.exit_code for point in points))


def _parsed(overrides: list[str]) -> list[Override]:
    return list(OverridesParser.create().parse_overrides(overrides))


def _first_point(overrides: list[str]) -> list[str]:
    """Return the overrides of the first point; what cannot be read is left as it is, for the check to answer."""
    first = []
    for text in overrides:
        try:
            override = _parsed([text])[0]
        except HydraException:
            first.append(text)
            continue
        swept = override.is_sweep_override()
        first.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}" if swept else text)
    return first


def _run_point(overrides: list[str], varied: set[str], run: Path, arguments: Arguments) -> Point:
    mine = [text for text in overrides if text.partition("=")[0].lstrip("+~") in varied]
    say(f"\npoint {run.name}: {' '.join(mine)}", style="bold")
    script = str(Path(__file__).with_name("__main__.py"))
    command = [sys.executable, script, *arguments.where(), *overrides, as_override("hydra.run.dir", str(run))]
    # A session of its own: Ctrl-C must reach it once, from here, and leave it time to save.
    with subprocess.Popen(command, start_new_session=True) as child:
        try:
            exit_code = child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise Interrupted("The sweep was stopped by Ctrl-C.", f"The last point can go on: resume={run}") from None
    metric, value = _headline(run)
    return Point(mine, run, exit_code, metric, value)


def _headline(run: Path) -> tuple[str, float | None]:
    try:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        first = next(iter(report["evaluations"].values()))["metrics"][0]
    except (OSError, ValueError, StopIteration):
        return "", None
    return str(first["metric"]), float(first["after"])


def _say_ranked(points: list[Point]) -> None:
    ranked = sorted(points, key=lambda point: (point.value is None, -(point.value or 0.0)))
    metric = next((point.metric for point in ranked if point.metric), "metric")
    table = Table("point", metric, Column("run", overflow="fold"))
    for point in ranked:
        result = f"{point.value:.4f}" if point.value is not None else "failed" if point.exit_code else "not evaluated"
        table.add_row(Text(" ".join(point.overrides)), result, Text(str(point.run)))
    console.print(table)
