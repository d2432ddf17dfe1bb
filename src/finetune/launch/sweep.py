"""Sweeps: every point a fresh process with a run directory of its own; this process never trains."""

from __future__ import annotations

import json
import secrets
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from finetune import interrupts
from finetune.config.compose import Composer, composer
from finetune.config.mishaps import listing
from finetune.config.quoting import quoted
from finetune.console import Bar, say
from finetune.errors import CheckFailed, Interrupted, Problem
from finetune.launch.arguments import Arguments, program

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LIST_THEM = "List the values, with commas between."
_FEW_POINTS = 20  # are checked before a person wonders


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
    grid = _grid(arguments)
    # Random, because two sweeps may start in the same second on two machines that share a disk.
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"
    configs = _check([overrides for overrides, _ in grid], arguments)
    if configs[0].check:
        fine = "The one point is fine" if len(grid) == 1 else f"All {len(grid):,} points are fine"
        say(f"{fine}; nothing was started.", style="bold green")
        return 0
    interrupts.raise_from_now_on()
    points = []
    for i, ((overrides, mine), cfg) in enumerate(zip(grid, configs, strict=True)):
        run = Path(cfg.output_root) / cfg.experiment / (cfg.name or f"{stamp}_{i:03d}")
        points.append(_run_point(overrides, mine, run, arguments))
    _say_ranked(points)
    return int(any(point.exit_code for point in points))


def _grid(arguments: Arguments) -> list[tuple[list[str], list[str]]]:
    """Return for each point all its overrides, and those of them that vary.

    Raises:
        CheckFailed: an override cannot be read, gives no point, or asks for another sweeper or launcher than this one.
    """
    choices: list[list[str]] = []
    problems: list[Problem] = []
    with composer(arguments.config_dir, arguments.config_name) as compositor:
        for text in arguments.overrides:
            try:
                override = compositor.parse(text)
            except HydraException:
                choices.append([text])  # for the check to answer
                continue
            problem = _not_a_grid(override, text)
            if problem is None and override.is_sweep_override():
                key = override.get_key_element()
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
                problem = None if choices[-1] else _nothing(override, text, compositor)
            else:
                choices.append([text])
            problems += [problem] if problem else []
    if problems:
        raise CheckFailed(problems)
    swept = [i for i, values in enumerate(choices) if len(values) > 1]
    return [(list(point), [point[i] for i in swept]) for point in product(*choices)]


def _not_a_grid(override: Override, text: str) -> Problem | None:
    if override.key_or_group in ("hydra/sweeper", "hydra/launcher"):
        return Problem(text, "sweeps are grids, run here one after the other.", "Leave it out.")
    if override.is_interval_sweep():
        what = "interval(...) is for sweepers that draw numbers, such as Optuna's; sweeps here are grids."
        return Problem(text, what, f"List the values: {override.get_key_element()}=1e-5,3e-5,1e-4")
    return None


def _nothing(override: Override, text: str, compositor: Composer) -> Problem:
    group = override.key_or_group
    if isinstance(override.value(), Glob) and not compositor.is_group(group):
        return Problem(text, f"glob(...) is over options, and there is no group '{group}'.", _LIST_THEM)
    if isinstance(override.value(), Glob):
        return Problem(text, "no option fits.", listing(compositor.options(group)))
    return Problem(text, "this gives no value at all.", _LIST_THEM)


def _check(grid: list[list[str]], arguments: Arguments) -> list[DictConfig]:
    from finetune.launch.entry import look_at_a_glance

    configs, problems = [], []
    with Bar("checking", len(grid), "points") as bar:
        for overrides in grid:
            cfg, found = look_at_a_glance(arguments, overrides)
            configs.append(cfg)
            problems += found
            if len(grid) > _FEW_POINTS:
                bar.update(len(configs))
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
            advice = f"Its last point can go on: {program()} {shlex.quote(f'resume={run}')}" if run.exists() else ""
            raise Interrupted("The sweep was stopped by Ctrl-C.", advice) from None
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
    # Lines, not a table: nothing is cut off, and a path can be copied.
    say("\nthe points, best first", style="bold")
    for place, point in enumerate(sorted(points, key=lambda point: (point.value is None, -(point.value or 0.0))), 1):
        result = f"{point.metric} {point.value:.4f}" if point.value is not None else "not evaluated"
        say(f"{place:>3}. {'failed' if point.exit_code else result}  {' '.join(point.overrides)}".rstrip())
        say(f"     {point.run}" if point.run.exists() else "     no run directory was made")
