"""Which trial is best, and by which metric: from their reports and metrics, as lines and as two files."""

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
        """Return the name of the metric and its value at the end of a run; `None` if it has none."""
        for finding in reported_metrics(RunDirectory(run).report_data_path):
            if self.metric in (None, finding.metric, f"{finding.evaluation}/{finding.metric}"):
                return finding.metric, finding.after
        if self.metric is None:
            return "", None
        values = [row[self.metric] for row in RunDirectory(run).read_metrics() if self.metric in row]
        if not values or not isinstance(values[-1], int | float):
            return self.metric, None
        return self.metric, float(values[-1])

    def maximizes(self, metric: str = "") -> bool:
        """Return whether a larger value is better: as the config says, else by the metric's name."""
        if self.direction != "auto":
            return self.direction == "maximize"
        return more_is_better(self.metric or metric)

    def ranked(self, results: Sequence[TrialResult]) -> list[TrialResult]:
        """Return the results: the best first, then those without a value, failures last."""
        known = [result for result in results if result.state == "finished" and result.value is not None]
        rest = [result for result in results if result not in known]
        metric = known[0].metric if known else ""
        # `reverse` keeps the order of equal values.
        known.sort(key=lambda result: result.value or 0.0, reverse=self.maximizes(metric))
        return [*known, *sorted(rest, key=_order_of_state)]


def say_ranked(ranked: Sequence[TrialResult]) -> None:
    """Print the trials: lines, not a table, so that nothing is cut off and a path can be copied."""
    say("\nthe trials, best first", style="bold")
    for place, result in enumerate(ranked, 1):
        say(f"{place:>3}. {result.summary()}  {' '.join(result.trial.own_overrides)}".rstrip())
        if result.trial.run.exists():
            say(f"     {result.trial.run}")
        else:
            say("     no run directory was made")


def write_ranked(folder: Path, ranked: Sequence[TrialResult], command: str, waiting: int) -> None:
    """Write sweep.json and sweep.md into the experiment's folder if it exists; `waiting` trials did not run yet.

    Raises:
        RunError: the system refuses.
    """
    if not folder.is_dir():
        return
    trials = [_as_dict(result) for result in ranked]
    write_json_atomically(folder / "sweep.json", {"command": command, "waiting": waiting, "points": trials})
    write_text_atomically(folder / "sweep.md", _markdown(ranked, command, waiting))


def _order_of_state(result: TrialResult) -> int:
    if result.is_failure:
        return 2
    return int(result.state != "finished")


def _as_dict(result: TrialResult) -> dict[str, Any]:
    return {
        "run": result.trial.run.name,
        "overrides": result.trial.own_overrides,
        "state": result.state,
        "reason": result.reason,
        "metric": result.metric,
        "value": result.value,
    }


def _markdown(ranked: Sequence[TrialResult], command: str, waiting: int) -> str:
    metrics = [result.metric for result in ranked if result.value is not None]
    metric = metrics[0] if metrics else "value"
    lines = ["# Sweep", "", f"    {command}", "", f"| | {metric} | point | run |", "|---:|---:|---|---|"]
    for place, result in enumerate(ranked, 1):
        value = result.summary()
        if result.state == "finished" and result.value is not None:
            value = f"{result.value:.4f}"
        cells = (str(place), value, " ".join(result.trial.own_overrides), result.trial.run.name)
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    if waiting:
        lines.append(f"\n{waiting} more did not run yet.")
    return "\n".join(lines) + "\n"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
