"""Sweeps: every point a fresh process with a run directory of its own; this process never trains."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from rich.table import Column, Table
from rich.text import Text

from finetune.config.quoting import quoted
from finetune.console import console, say
from finetune.errors import CheckFailed, Interrupted, Problem
from finetune.launch.arguments import Arguments

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
    """Check every point of the grid, run one after the other, and rank them; returns 1 if any failed, else 0.

    Raises:
        CheckFailed: a point has a mistake; nothing was started.
        Interrupted: somebody stopped the sweep, and with it the point that was running.
    """
    varied, grid = _grid(arguments.overrides)
    # Random, because two sweeps may start in the same second on two machines that share a disk.
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"
    configs = _check([overrides for overrides, _ in grid], arguments)
    if configs[0].check:
        say(f"All {len(grid)} points are fine; nothing was started.", style="bold green")
        return 0
    points = []
    for i, ((overrides, mine), cfg) in enumerate(zip(grid, configs, strict=True)):
        run = Path(cfg.output_root) / cfg.experiment / (cfg.name or f"{stamp}_{i:03d}")
        points.append(_run_point(overrides, mine, run, arguments))
    _say_ranked(points, varied)
    return int(any(point.exit_code for point in points))


def _grid(overrides: list[str]) -> tuple[list[str], list[tuple[list[str], list[str]]]]:
    """Return the keys that vary, and for each point all its overrides and those of them that vary.

    Raises:
        CheckFailed: an override cannot be read, or asks for another sweeper or launcher than this one.
    """
    choices: list[list[str]] = []
    varied: list[str] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            choices.append([text])  # for the check to answer
            continue
        if override.key_or_group in ("hydra/sweeper", "hydra/launcher"):
            raise CheckFailed([Problem(text, "sweeps are grids, run here one after the other.", "Leave it out.")])
        if override.is_sweep_override():
            varied.append(override.get_key_element())
            choices.append([f"{varied[-1]}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([text])
    swept = [i for i, values in enumerate(choices) if len(values) > 1]
    return varied, [(list(point), [point[i] for i in swept]) for point in product(*choices)]


def _check(grid: list[list[str]], arguments: Arguments) -> list[DictConfig]:
    from finetune.launch.entry import look_at_a_glance

    configs, problems = [], []
    for overrides in grid:
        cfg, found = look_at_a_glance(arguments, overrides)
        configs.append(cfg)
        problems += found
    names = {str(cfg.name) for cfg in configs if cfg is not None and cfg.name is not None}
    if len(names) == 1 and len(grid) > 1:
        problems.append(Problem("name", "all points would have the same name.", "Leave it out, or vary it too."))
    if problems:
        raise CheckFailed(dict.fromkeys(problems))
    return [cfg for cfg in configs if cfg is not None]


def _run_point(overrides: list[str], mine: list[str], run: Path, arguments: Arguments) -> Point:
    say(f"\npoint {run.name}: {' '.join(mine)}", style="bold")
    script = str(Path(__file__).with_name("__main__.py"))
    command = [sys.executable, script, *arguments.where(), *overrides, f"hydra.run.dir={quoted(str(run))}"]
    # A session of its own: Ctrl-C must reach it once, from here, and leave it time to save.
    with subprocess.Popen(command, start_new_session=True) as child:
        try:
            exit_code = child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise Interrupted("The sweep was stopped by Ctrl-C.", f"Its last point can go on: {run}") from None
    metric, value = _headline(run)
    return Point(mine, run, exit_code, metric, value)


def _headline(run: Path) -> tuple[str, float | None]:
    try:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        first = next(iter(report["evaluations"].values()))["metrics"][0]
    except (OSError, ValueError, StopIteration):
        return "", None
    return str(first["metric"]), float(first["after"])


def _say_ranked(points: list[Point], varied: list[str]) -> None:
    ranked = sorted(points, key=lambda point: (point.value is None, -(point.value or 0.0)))
    metric = next((point.metric for point in ranked if point.metric), "metric")
    table = Table(Column(Text(" ".join(varied) or "point")), metric, Column("run", overflow="fold"))
    for point in ranked:
        result = f"{point.value:.4f}" if point.value is not None else "failed" if point.exit_code else "not evaluated"
        table.add_row(Text(" ".join(point.overrides)), result, Text(str(point.run)))
    console.print(table)
