"""`finetune runs curve`: plot a metric over the steps, with text characters."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle

from finetune.console import console, say
from finetune.runs.directory import RunDirectory
from finetune.runs.metrics import curve, last_values, resolve_metric_name

Points = list[tuple[float, float]]

_COLORS = ("cyan", "yellow", "magenta", "green", "blue", "red")
_WIDEST, _HEIGHT = 120, 20  # characters
_MARGIN = 24  # characters next to the plot, for the tick labels and the name of the axis
_NARROWEST = 16  # characters; a narrower plot is unreadable
_LONGEST_LABEL = 8  # characters


def curves(runs: Sequence[RunDirectory], metric: str, smooth: int) -> dict[str, Points]:
    """Return the points (step, value) of each run by name, each value averaged over the last `smooth` points.

    Raises:
        FinetuneError: a run has no such metric.
    """
    found = {}
    for run in runs:
        records = run.read_metrics()
        name = resolve_metric_name(metric, last_values(records), run.name)
        found[f"{run.path.absolute().parent.name}/{run.name}"] = _smoothed(curve(records, name), smooth)
    return found


def _smoothed(points: Points, width: int) -> Points:
    sums = [0.0, *accumulate(value for _, value in points)]
    means = []
    for i, (step, _) in enumerate(points, start=1):
        first = max(0, i - width)
        means.append((step, (sums[i] - sums[first]) / (i - first)))
    return means


def draw(found: Mapping[str, Points], metric: str) -> None:
    """Print the plot, and below it the first and last point of each curve; in color only in a terminal.

    In a terminal too narrow for the plot only the lines below it are printed, with a message.
    """
    width = min(_WIDEST, console.width) - _MARGIN
    if width >= _NARROWEST:
        _plot(found, metric, width)
    else:
        needed = _NARROWEST + _MARGIN
        say(f"The terminal is too narrow to plot: it has {console.width} columns, and a plot needs {needed}.")
    for color, (name, points) in zip(cycle(_COLORS), found.items(), strict=False):
        (first_step, first_value), (last_step, last_value) = points[0], points[-1]
        low = min(value for _, value in points)
        high = max(value for _, value in points)
        line = f"{name}  {metric} {first_value:.6g} at step {first_step:g}, {last_value:.6g} at step {last_step:g}"
        say(f"{line}; lowest {low:.6g}, highest {high:.6g}", style=color)


def _plot(found: Mapping[str, Points], metric: str, width: int) -> None:
    import plotille

    figure = plotille.Figure()
    figure.width, figure.height = width, _HEIGHT
    figure.with_colors = console.is_terminal and not console.no_color
    figure.x_label, figure.y_label = "step", metric.rpartition("/")[2][:_LONGEST_LABEL]
    for kind in (int, float):
        figure.register_label_formatter(kind, _number)
    figure.x_ticks_fkt = lambda step, _next: round(step)  # steps are whole numbers
    figure.set_x_limits(*_limits([step for points in found.values() for step, _ in points]))
    figure.set_y_limits(*_limits([value for points in found.values() for _, value in points]))
    for color, points in zip(cycle(_COLORS), found.values(), strict=False):
        steps, values = zip(*points, strict=True)
        figure.plot(steps, values, lc=color if figure.with_colors else None)
    sys.stdout.write(figure.show() + "\n")


def _limits(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    if low == high:  # a single point or a constant line needs some room
        margin = (abs(low) or 1) / 10
        return low - margin, high + margin
    return low, high


def _number(value: float, chars: int, delta: float, left: bool = False) -> str:  # noqa: ARG001 - plotille gives it
    text = f"{value:.4g}"
    if left:
        return text.ljust(chars)
    return text.rjust(chars)
