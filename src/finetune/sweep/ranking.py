"""Which of the points is best, and by what: from their reports and metrics, into a table and two files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.console import say
from finetune.runs.atomic import write_json_atomically, write_text_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.metrics import more_is_better, reported_metrics
from finetune.sweep.trials import TrialResult


@dataclass(frozen=True)
class Ranking:
    """Ranks by one metric; `None` takes the headline of the first evaluation. `direction` may be `auto`."""

    metric: str | None
    direction: str

    def value_of(self, run: Path) -> tuple[str, float | None]:
        """Return the name of the metric and its value at the end of a run; `None` where it has none."""
        found = reported_metrics(RunDirectory(run).report_data_path)
        wanted = [one for one in found if self.metric in (None, one.metric, f"{one.evaluation}/{one.metric}")]
        if wanted:
            return wanted[0].metric, wanted[0].after
        if self.metric is None:
            return "", None
        rows = [row[self.metric] for row in RunDirectory(run).read_metrics() if self.metric in row]
        return self.metric, _number(rows[-1]) if rows else None

    def maximizes(self, metric: str = "") -> bool:
        """Return whether more of it is better; the config's word counts, then what the name says."""
        if self.direction != "auto":
            return self.direction == "maximize"
        return more_is_better(self.metric or metric)

    def ranked(self, results: Sequence[TrialResult]) -> list[TrialResult]:
        """Return the points, best first, then those without a value, those that failed last."""
        known = [result for result in results if result.state == "finished" and result.value is not None]
        rest = [result for result in results if result not in known]
        sign = -1 if self.maximizes(known[0].metric if known else "") else 1
        return [*sorted(known, key=lambda result: sign * (result.value or 0.0)), *sorted(rest, key=_by_state)]


def say_ranked(ranked: Sequence[TrialResult]) -> None:
    """Print the points: lines, not a table, so that nothing is cut off and a path can be copied."""
    say("\nthe points, best first", style="bold")
    for place, result in enumerate(ranked, 1):
        say(f"{place:>3}. {result.said()}  {' '.join(result.point.mine)}".rstrip())
        say(f"     {result.point.run}" if result.point.run.exists() else "     no run directory was made")


def write_ranked(folder: Path, ranked: Sequence[TrialResult], command: str, waiting: int) -> None:
    """Write sweep.json and sweep.md into the experiment's folder, once there is one; `waiting` points did not run yet.

    Raises:
        RunError: the system refuses.
    """
    if not folder.is_dir():
        return
    points = [_plain(result) for result in ranked]
    write_json_atomically(folder / "sweep.json", {"command": command, "waiting": waiting, "points": points})
    write_text_atomically(folder / "sweep.md", _markdown(ranked, command, waiting))


def _by_state(result: TrialResult) -> int:
    return 2 if result.is_failure else int(result.state != "finished")


def _plain(result: TrialResult) -> dict[str, Any]:
    return {
        "run": result.point.run.name,
        "overrides": result.point.mine,
        "state": result.state,
        "reason": result.reason,
        "metric": result.metric,
        "value": result.value,
    }


def _markdown(ranked: Sequence[TrialResult], command: str, waiting: int) -> str:
    metric = next((result.metric for result in ranked if result.value is not None), "value")
    rows = [f"| | {metric} | point | run |", "|---:|---:|---|---|"]
    for place, result in enumerate(ranked, 1):
        value = f"{result.value:.4f}" if result.state == "finished" and result.value is not None else result.said()
        cells = (str(place), value, " ".join(result.point.mine), result.point.run.name)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |")
    more = [f"\n{waiting} more did not run yet."] if waiting else []
    return "\n".join(["# Sweep", "", f"    {command}", "", *rows, *more]) + "\n"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
